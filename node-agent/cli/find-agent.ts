/** Which agent a command talks to, and with which token. */
import { join } from 'node:path';
import { badRequest, KvtierError } from '#core/errors.ts';
import { KvtierClient } from '#client/kvtier-client.ts';
import { configInvalid, readValues, type ReadValues } from '#config/load-config.ts';
import { absolute } from '#config/normalize.ts';
import { AGENT_FILE_NAME, localUrl, parseAgentFile } from './agent-file.ts';
import type { CliDeps } from './deps.ts';
import type { Words } from './words.ts';

export interface FoundAgent {
  readonly client: KvtierClient;
  /** `--url`, `KVTIER_URL`, or the path of agent.json. */
  readonly source: string;
}

/** What the client commands read of the configuration. Errors: CONFIG_INVALID. */
export function clientValues(words: Words, deps: CliDeps): ReadValues {
  const read = readValues({ argv: words.config, env: deps.env, readFile: deps.readFile, cwd: deps.cwd });
  if (read.problems.length > 0) throw configInvalid(read.problems);
  return read;
}

/**
 * `--url` over KVTIER_URL over `<data-dir>/agent.json`; the admin token where there is one, else the read token.
 * Errors: NOT_FOUND where nothing names an agent; CONFIG_INVALID; BAD_REQUEST for a URL that is none.
 */
export function findAgent(words: Words, deps: CliDeps): FoundAgent {
  const read = clientValues(words, deps);
  const { url, source } = agentUrl(words, deps, read);
  const token = read.tokens.admin ?? read.tokens.read;
  const client = new KvtierClient({ baseUrl: url, token, ...(deps.fetch === undefined ? {} : { fetch: deps.fetch }) });
  return { client, source };
}

function agentUrl(words: Words, deps: CliDeps, read: ReadValues): { readonly url: string; readonly source: string } {
  const byFlag = words.text.get('url');
  const given = byFlag ?? deps.env['KVTIER_URL'];
  if (given !== undefined && given !== '') {
    const source = byFlag === undefined ? 'KVTIER_URL' : '--url';
    if (!/^https?:\/\//.test(given) || !URL.canParse(given)) throw badRequest(`${source} is '${given}': an http or https URL is wanted`);
    return { url: given, source };
  }
  const path = join(absolute(deps.cwd, read.values.dataDir), AGENT_FILE_NAME);
  const text = deps.readFile(path);
  if (text === undefined) {
    throw new KvtierError(
      'NOT_FOUND',
      `No agent is known: ${path} does not exist. Start one with \`kvtier serve\`, or name it with --url or --data-dir`,
    );
  }
  const file = parseAgentFile(text, path);
  return { url: localUrl(file.doors.http, file), source: path };
}

/**
 * Facts for commands that start nothing. The agent of the data folder has its shared memory already, so what it took counts as free:
 * otherwise the settings that it runs with would be refused.
 */
export function factsToShow(deps: CliDeps): CliDeps['facts'] {
  return (query) => {
    const facts = deps.facts(query);
    return deps.readFile(join(query.dataDir, AGENT_FILE_NAME)) === undefined ? facts : { ...facts, shmFreeBytes: facts.shmTotalBytes };
  };
}

/** The error with what a person can do about it: only for an agent that does not answer. */
export function withHint(error: unknown, agent: FoundAgent): unknown {
  if (!(error instanceof KvtierError) || error.code !== 'IO_FAILED' || error.context['status'] !== undefined) return error;
  return new KvtierError('IO_FAILED', `${error.message} (address from ${agent.source}; is the agent running?)`, {
    context: error.context,
    cause: error,
  });
}
