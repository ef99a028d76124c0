import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KvtierError } from '#core/errors.ts';
import { exitTable } from '#cli/exit-codes.ts';
import { commands } from '#cli/run-cli.ts';
import { splitWords } from '#cli/words.ts';
import { knobs } from '#config/knobs.ts';
import { putSampleChunks } from '#testsupport/api-harness.ts';
import { createCliHarness } from '#testsupport/cli-harness.ts';

const word = fc.oneof(
  fc.string(),
  fc.string({ unit: 'binary', maxLength: 8 }),
  fc.constantFrom(
    '--',
    '-',
    '--=',
    '--json',
    '--json=1',
    '--url',
    '--all',
    '--yes',
    '--dry-run',
    '--model',
    '--limit',
    '--tier',
    'ram',
    '--offline',
    '--help',
    '5',
    '--no-json',
    '--__proto__',
    '--constructor=1',
  ),
  fc.constantFrom(...knobs.map((knob) => `--${knob.flag}`)),
);

describe('runCli', () => {
  it('ends any command line with a documented exit code, never with an exception, and writes no escape sequence', async () => {
    const documented = new Set(exitTable().map((row) => row.exit));
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.constantFrom(...commands.map((command) => command.name)), fc.string()),
        fc.array(word, { maxLength: 5 }),
        async (first, rest) => {
          const cli = createCliHarness();
          putSampleChunks(cli.api.control);
          const { exit, out, err } = await cli.run(first, ...rest);
          expect(documented).toContain(exit);
          expect(out + err).not.toContain('\u001b');
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('splitWords', () => {
  it('keeps every word exactly once: as own flag, configuration word or positional', () => {
    const args = { json: { type: 'boolean' }, model: { type: 'string' } } as const;
    fc.assert(
      fc.property(fc.array(word, { maxLength: 8 }), (words) => {
        let split;
        try {
          split = splitWords(words, { args, knobs, maxPositionals: 100 });
        } catch (error) {
          expect(error).toBeInstanceOf(KvtierError);
          return;
        }
        const own = [...split.text.values(), ...split.on].length;
        const separators = words.includes('--') ? 1 : 0;
        const names = words.filter((candidate) => candidate === '--model').length;
        expect(own + split.positionals.length + split.config.length).toBeGreaterThanOrEqual(words.length - separators - names);
        const model = words.indexOf('--model');
        if (model >= 0 && !split.positionals.includes('--model') && !split.config.includes('--model'))
          expect(split.text.get('model')).toBe(words[model + 1]);
      }),
      { numRuns: 300 },
    );
  });

  it('takes everything behind -- for positionals', () => {
    fc.assert(
      fc.property(fc.array(fc.string(), { maxLength: 6 }), (rest) => {
        expect(splitWords(['--', ...rest], { args: {}, knobs: [], maxPositionals: 10 }).positionals).toEqual(rest);
      }),
    );
  });
});
