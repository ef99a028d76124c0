/** Command names that the door knows, matched in any letter case straight from the bytes: no string is built on the hot path. */
const KNOWN_COMMANDS = [
  'GET',
  'SET',
  'DEL',
  'MGET',
  'MSET',
  'PING',
  'ECHO',
  'AUTH',
  'QUIT',
  'INFO',
  'TYPE',
  'SCAN',
  'KEYS',
  'HELLO',
  'TOUCH',
  'EXISTS',
  'UNLINK',
  'STRLEN',
  'SELECT',
  'CLIENT',
  'CONFIG',
  'DBSIZE',
  'COMMAND',
  'FLUSHDB',
  'FLUSHALL',
  'TTL',
  'PTTL',
  'SETEX',
  'PSETEX',
  'EXPIRE',
  'PEXPIRE',
  'EXPIREAT',
  'PEXPIREAT',
  'PERSIST',
  'EXPIRETIME',
  'PEXPIRETIME',
] as const;

export type RespCommandName = (typeof KNOWN_COMMANDS)[number];

interface Candidate {
  readonly name: RespCommandName;
  readonly codes: Uint8Array;
}

/** Candidates by length of the name: at most nine comparisons, each usually ending at the first byte. */
const candidatesByLength: readonly (readonly Candidate[])[] = Array.from({ length: 12 }, (_, length) =>
  KNOWN_COMMANDS.filter((name) => name.length === length).map((name) => ({ name, codes: Uint8Array.from(name, (c) => c.charCodeAt(0)) })),
);

/** The upper-case name, or '' where the door has no such command. */
export function commandName(bytes: Uint8Array): RespCommandName | '' {
  const candidates = candidatesByLength[bytes.length];
  if (candidates === undefined) return '';
  for (const { name, codes } of candidates) {
    let index = 0;
    // Clearing bit 5 folds a-z onto A-Z; no other byte of a name can land on a letter except its own lower-case form.
    while (index < codes.length && ((bytes[index] ?? 0) & 0xdf) === codes[index]) index += 1;
    if (index === codes.length) return name;
  }
  return '';
}
