/** The page docs/configuration.md, made from the knobs. write-docs.ts writes it, a test compares it. */
import { knobs, otherVariables, testPrefixes, type Knob } from './knobs.ts';

const intro = `# Configuration

<!-- Generated from node-agent/config/knobs.ts by \`bun node-agent/config/write-docs.ts\`; a test compares. -->

Nothing needs to be configured. Every setting has a key in the TOML file, a flag, and a variable. A flag wins over a variable, a
variable over the file, the file over the default. \`kvtier config print\` shows what is in force and where each value came from.

The file is named by \`--config\` or \`KVTIER_CONFIG\`; without either there is none. Dotted keys are tables:

\`\`\`toml
dataDir = "/var/lib/kvtier"

[ram]
size = "64GiB"

[ssd]
dir = ["/nvme0/kvtier:800GiB", "/nvme1/kvtier:800GiB"]
admission = "idle"

[hbm]
size = "8GiB"
devices = [0, 1]

[tenants.acme]
tokenFile = "/etc/kvtier/acme.token"
\`\`\`

- **Sizes**: \`64GiB\`, \`512MiB\`, or bytes as a number. \`GB\`, \`MB\` are powers of ten.
- **Durations**: \`250ms\`, \`30s\`, \`5m\`, \`12h\`, or milliseconds as a number.
- **Addresses**: \`127.0.0.1:7600\`, \`localhost:7600\`, \`[::1]:7600\`. Port 0 picks a free port; \`<dataDir>/agent.json\` says which.
- **Booleans**: \`--name\`, \`--no-name\`, \`true\`, \`false\`.
- **Lists**: repeat the flag, separate by commas in the variable, use an array in the file.
- **Paths**: relative ones start at the folder in which the agent was started.
`;

const rules = `## What is refused at start

All problems are listed at once, with the values in them, and the exit code is 78. Besides unknown names and unreadable values:

- HTTP or RESP bound to anything but loopback (127.0.0.0/8, ::1, localhost) without an admin token.
- A read token without an admin token, or equal to it; a token and a token file in one place.
- A TLS certificate without a key, or the other way round; files that cannot be read, are no PEM, or do not belong together.
- Tenants' tokens without an admin token, or one token for two; a name of a tenant with other characters than \`a-z 0-9 . _ -\`.
- Two doors on one address.
- A RAM tier larger than memory or than the free space of \`ram.shmDir\`; a default is lowered instead.
- \`ram.maxChunk\` above a quarter of the RAM tier; the default is lowered instead.
- An SSD folder named twice, inside another, or larger than its disk; \`ssd.size\` that contradicts the sizes of the folders; folders
  together with \`ssd.size = "off"\`; a free-space floor that leaves nothing of a disk.
- Devices, \`hbm.required\`, or a driver for the HBM tier without a size of it (\`auto\` and \`off\` make no pool); a device named twice; as many sizes
  as there are not devices; an emulated driver with a path.
- A write queue smaller than the largest chunk, or a write queue or read-ahead above half of the RAM tier.
- A flag given twice, a variable that is set but empty, a \`KVTIER_*\` variable that is no setting. Variables that Kubernetes sets for a
  Service called kvtier (\`KVTIER_SERVICE_HOST\`, \`KVTIER_PORT_7600_TCP\`, …) are passed over; ${otherVariables.map((name) => `\`${name}\``).join(', ')} is the
  agent that the other commands talk to; ${testPrefixes.map((prefix) => `\`${prefix}*\``).join(', ')} belong to the tests.
`;

function escapeCell(text: string): string {
  return text.replaceAll('|', '\\|');
}

function row(knob: Knob): string {
  const hint = knob.hint === '' ? '' : ` <${knob.hint}>`;
  const flag = `\`--${knob.flag}${hint}\`${knob.repeatable === true ? ', repeatable' : ''}`;
  return `| \`${knob.key}\` | ${escapeCell(flag)} | \`${knob.variable}\` | ${escapeCell(knob.defaultText)} | ${escapeCell(knob.description)} |`;
}

export function referencePage(): string {
  const head = '| Key | Flag | Variable | Default | Meaning |\n|---|---|---|---|---|';
  return `${intro}\n## Settings\n\n${head}\n${knobs.map(row).join('\n')}\n\n${rules}`;
}
