/** `<data-dir>/agent.json`: the agent writes it when its doors are open, commands find the agent by it. */
import { z } from 'zod';
import { KvtierError } from '#core/errors.ts';
import { formatAddress, isWildcard, type Address } from '#config/knob-types.ts';

const addressSchema = z.object({ host: z.string().min(1), port: z.number().int().min(1).max(65_535) });

/** Unknown fields are passed over: a newer agent may say more. */
const agentFileSchema = z.object({
  version: z.string(),
  pid: z.number().int(),
  /** Wall clock, ISO 8601. */
  startedAt: z.string(),
  /** Every door that is open, with the port that it really has. */
  doors: z.object({ http: addressSchema, resp: addressSchema.optional(), lm: addressSchema.optional(), socket: z.string().optional() }),
  dataDir: z.string(),
  /** HTTP and RESP speak TLS. */
  tls: z.boolean().optional(),
});
export type AgentFile = z.infer<typeof agentFileSchema>;

export const AGENT_FILE_NAME = 'agent.json';

export function formatAgentFile(file: AgentFile): string {
  return `${JSON.stringify(file, undefined, 2)}\n`;
}

/** Errors: CORRUPT for a text that no agent wrote. */
export function parseAgentFile(text: string, path: string): AgentFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new KvtierError('CORRUPT', `Cannot read ${path}: it is no JSON; remove it or name the agent with --url`, { cause });
  }
  const parsed = agentFileSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const where = parsed.error.issues.map((issue) => issue.path.join('.')).join(', ');
  throw new KvtierError('CORRUPT', `Cannot read ${path}: ${where} is not as wanted; remove it or name the agent with --url`);
}

/** Base URL for a client on this machine: a door on every interface is reached on loopback. */
export function localUrl(address: Address, { tls = false }: { readonly tls?: boolean | undefined } = {}): string {
  const scheme = tls ? 'https' : 'http';
  if (!isWildcard(address.host)) return `${scheme}://${formatAddress(address)}`;
  return `${scheme}://${formatAddress({ host: address.host.includes(':') ? '::1' : '127.0.0.1', port: address.port })}`;
}
