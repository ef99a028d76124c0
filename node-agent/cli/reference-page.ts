/** The page docs/cli.md, made from the commands and the exit codes. write-docs.ts writes it, a test compares it. */
import type { Command } from './command.ts';
import { exitTable } from './exit-codes.ts';
import { commands } from './run-cli.ts';
import { clientKnobs } from './words.ts';

const intro = `# Command line

<!-- Generated from node-agent/cli by \`bun node-agent/cli/write-docs.ts\`; a test compares. -->

\`bun run kvtier <command>\`, or \`kvtier <command>\` where it is installed. \`kvtier <command> --help\` lists every flag.

Commands that ask a running agent find it by \`--url\`, then \`KVTIER_URL\`, then \`<dataDir>/agent.json\` (\`--data-dir\`, \`KVTIER_DATA_DIR\`, or
the file of \`--config\`), and present the admin token (\`--token-file\`, \`--token\`, \`KVTIER_TOKEN\`) or else the read token
(\`--read-token-file\`, \`--read-token\`, \`KVTIER_READ_TOKEN\`). Results go to standard output, progress and errors to standard error. With \`--json\` the result is one
JSON document, and an error is one JSON object on standard error: \`{"error": {"code", "message", "retryable"}}\`.
`;

function escapeCell(text: string): string {
  return text.replaceAll('|', '\\|');
}

function section(command: Command): string {
  const rows = Object.entries(command.args).map(([name, arg]) => {
    const hint = 'valueHint' in arg && arg.valueHint !== undefined ? ` <${arg.valueHint}>` : arg.type === 'string' ? ` <${name}>` : '';
    const shown = arg.type === 'positional' ? name.toUpperCase() : `--${name}${hint}`;
    return `| \`${escapeCell(shown)}\` | ${escapeCell(arg.description ?? '')} |`;
  });
  const table = rows.length === 0 ? '' : `\n| Argument | Meaning |\n|---|---|\n${rows.join('\n')}\n`;
  const knobs =
    command.knobs.length === 0
      ? ''
      : command.knobs.length === clientKnobs.length
        ? `\nAlso ${clientKnobs.map((knob) => `\`--${knob.flag}\``).join(', ')}.\n`
        : '\nAlso every flag of [configuration.md](configuration.md).\n';
  return `### ${command.name}\n\n${command.summary}\n${table}${knobs}`;
}

function exits(): string {
  const rows = exitTable().map((row) => `| ${row.exit} | ${row.meaning} | ${row.codes.map((code) => `\`${code}\``).join(', ')} |`);
  return `## Exit codes\n\nThey follow sysexits.h. Scripts can tell "done, nothing found", "done, something found", and "not done" apart.\n\n| Code | Meaning | Errors |\n|---|---|---|\n${rows.join('\n')}\n`;
}

export function cliPage(): string {
  return `${intro}\n## Commands\n\n${commands.map(section).join('\n')}\n${exits()}`;
}
