/** Prompts of an exact number of tokens, whose answer depends on what stands at their beginning. */
import type { RunningVllm } from '#testsupport/vllm.ts';

const colours = ['amber', 'black', 'blue', 'brown', 'green', 'grey', 'red', 'silver', 'white', 'yellow'];
const animals = ['badger', 'crane', 'falcon', 'heron', 'lynx', 'marten', 'otter', 'raven', 'salmon', 'wolf'];
const places = ['Bergen', 'Cadiz', 'Dover', 'Genoa', 'Lisbon', 'Malmo', 'Porto', 'Riga', 'Split', 'Turku'];

/** What stands before the question: shorter than a chunk of 256 tokens, so that no prompt shares one with another. */
const QUESTION = '\n\nQuestion: which animal was seen in record 1, and where?\nAnswer: the';

/** `tokenCount` tokens: as many records as fit, then the question. Another `seed` shares no chunk, but the same question. */
export async function recordPrompt(vllm: RunningVllm, tokenCount: number, seed: number): Promise<readonly number[]> {
  const question = await vllm.tokenize(QUESTION);
  let state = seed;
  const pick = (words: readonly string[]): string => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return words[Math.floor(state / 65_536) % words.length] ?? '';
  };
  // A record has more than ten tokens, so a tenth of the tokens is records enough.
  const records = Array.from(
    { length: Math.ceil(tokenCount / 10) },
    (_, i) => `Record ${i + 1}: a ${pick(colours)} ${pick(animals)} was seen in ${pick(places)}.`,
  );
  const tokens = await vllm.tokenize(`Case ${seed}.\n${records.join('\n')}`);
  return [...tokens.slice(0, tokenCount - question.length), ...question];
}
