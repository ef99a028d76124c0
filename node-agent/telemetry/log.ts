/**
 * The agent's log: core/logger.ts on LogTape. One line a record, to one place; lines for people or JSON for programs. Secrets are
 * taken out here, whatever the rooms hand in (redact.ts).
 *
 * JSON: `{"time": ISO 8601, "level", "room", "message", …fields}`; a field named like one of the four is printed as `field_…`.
 */
import { configureSync, getLogger, type LogRecord } from '@logtape/logtape';
import type { Logger } from '#core/logger.ts';
import { printable } from '#core/printable.ts';
import { createRedact, type Redact } from './redact.ts';

export interface LogOptions {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly format: 'pretty' | 'json';
  /** Takes whole lines, each with its newline. Must not throw. */
  readonly write: (line: string) => void;
  /** Values that must never be printed, such as the configured tokens. */
  readonly secrets?: readonly string[];
  /** Cache salts as they are instead of their digests. */
  readonly reveal?: boolean;
  /** ANSI colours in the pretty format. */
  readonly color?: boolean;
}

export interface LogRoot {
  /** The logger of one room, such as 'resp' or 'tiers.ssd'. */
  room(name: string): Logger;
}

const levelOf = { debug: 'debug', info: 'info', warn: 'warning', error: 'error' } as const;
const shownLevel: Readonly<Record<string, string>> = { warning: 'warn', fatal: 'error', trace: 'debug' };
const colors: Readonly<Record<string, number>> = { debug: 90, info: 36, warn: 33, error: 31 };

/**
 * Configures LogTape, which is one per process and thread: a second call replaces the first, and loggers of the first then write
 * to the second.
 */
export function createLog(options: LogOptions): LogRoot {
  const redact = createRedact(options.secrets ?? [], { reveal: options.reveal === true });
  const format = options.format === 'json' ? formatJson : formatPretty;
  configureSync({
    reset: true,
    sinks: { out: (record) => options.write(format(record, redact, options.color === true)) },
    loggers: [
      { category: ['kvtier'], sinks: ['out'], lowestLevel: levelOf[options.level] },
      { category: ['logtape', 'meta'], sinks: ['out'], lowestLevel: 'error' },
    ],
  });
  return { room: (name) => roomLogger(name) };
}

/** Braces of a message are text, not placeholders: messages may quote what clients sent. */
function escapeTemplate(message: string): string {
  return message.replaceAll('{', '{{').replaceAll('}', '}}');
}

function roomLogger(name: string): Logger {
  const logger = getLogger(['kvtier', ...name.split('.')]);
  return {
    debug: (message, fields = {}) => logger.debug(escapeTemplate(message), { ...fields }),
    info: (message, fields = {}) => logger.info(escapeTemplate(message), { ...fields }),
    warn: (message, fields = {}) => logger.warn(escapeTemplate(message), { ...fields }),
    error: (message, fields = {}) => logger.error(escapeTemplate(message), { ...fields }),
  };
}

interface Plain {
  readonly level: string;
  readonly room: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

function plain(record: LogRecord, redact: Redact): Plain {
  return {
    level: shownLevel[record.level] ?? record.level,
    room: record.category.slice(1).join('.'),
    message: String(redact(record.message.map(String).join(''))),
    fields: redact(record.properties) as Record<string, unknown>,
  };
}

const ownNames = new Set(['time', 'level', 'room', 'message']);

function formatJson(record: LogRecord, redact: Redact): string {
  const { level, room, message, fields } = plain(record, redact);
  const others = Object.entries(fields).map(([name, value]) => [ownNames.has(name) ? `field_${name}` : name, value]);
  return `${JSON.stringify({ time: new Date(record.timestamp).toISOString(), level, room, message, ...Object.fromEntries(others) })}\n`;
}

function showField(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? 'undefined');
  return printable(typeof value === 'string' && /[\s"=]|^$/.test(text) ? JSON.stringify(text) : text);
}

function formatPretty(record: LogRecord, redact: Redact, color: boolean): string {
  const { level, room, message, fields } = plain(record, redact);
  const paint = (code: number, text: string): string => (color ? `\u001b[${code}m${text}\u001b[0m` : text);
  const time = new Date(record.timestamp).toISOString().slice(11, 23);
  const stacks: string[] = [];
  const shown = Object.entries(fields).map(([name, value]) => {
    if (isError(value)) {
      stacks.push(value.stack);
      return `${name}=${showField(`${value.name}: ${value.message}`)}`;
    }
    return `${printable(name)}=${showField(value)}`;
  });
  const tail = shown.length === 0 ? '' : ` ${paint(90, shown.join(' '))}`;
  const head = `${paint(90, time)} ${paint(colors[level] ?? 0, level.padEnd(5))} ${printable(room)}: ${printable(message)}${tail}\n`;
  return (
    head +
    stacks
      .filter((stack) => stack !== '')
      .map(
        (stack) =>
          `${stack
            .split('\n')
            .map((line) => `    ${printable(line)}`)
            .join('\n')}\n`,
      )
      .join('')
  );
}

function isError(value: unknown): value is { readonly name: string; readonly message: string; readonly stack: string } {
  return (
    typeof value === 'object' &&
    value !== null &&
    'stack' in value &&
    'name' in value &&
    'message' in value &&
    typeof value.stack === 'string'
  );
}
