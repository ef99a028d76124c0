/**
 * The messages of the native door as data: what decodes, encodes, documents (docs/formats/native.md) and tests them. Every change
 * of it is a new NATIVE_VERSION; a test compares its hash with the one that stands beside the version.
 *
 * A frame is 16 bytes (u32 bytes of the body, u16 operation, u16 status, u64 tag) and a body: the fields below, one after another,
 * little-endian, nothing between them and nothing behind. Replies carry the operation and the tag of their request; a status other
 * than 0 is an error, whose body is one `text`.
 *
 * Types: `u8` to `u64` (below 2^53). `text`: u16 bytes, UTF-8. `blob`: u32 bytes. `keys`: u32 count, u16 bytes of each key, or 0 and
 * then each key behind a u16 of its own. `spans`: u32 count, then u64 offset and u32 length of each. `u8s`, `u32s`: u32 count, values.
 */

export type FieldType = 'u8' | 'u16' | 'u32' | 'u64' | 'text' | 'blob' | 'keys' | 'spans' | 'u8s' | 'u32s';
export type Shape = Readonly<Record<string, FieldType>>;

export interface Operation {
  readonly op: number;
  readonly request: Shape;
  readonly reply: Shape;
  readonly about: string;
}

/** Raised by one with every change to the schema. */
export const NATIVE_VERSION = 1;
export const FRAME_HEADER_BYTES = 16;

const keysOf = { namespace: 'u32', keys: 'keys' } as const;

export const nativeOperations = {
  HELLO: {
    op: 1,
    request: { version: 'u32', client: 'text', token: 'text' },
    reply: {
      version: 'u32',
      instance: 'u64',
      leaseMs: 'u32',
      maxKeys: 'u32',
      maxFrameBytes: 'u32',
      maxJobs: 'u32',
      maxChunkBytes: 'u64',
      server: 'text',
    },
    about: 'First, once. `instance` is another number for another process: what was attached or opened before is gone.',
  },
  PING: { op: 2, request: { payload: 'blob' }, reply: { payload: 'blob' }, about: 'Answers what it was sent.' },
  NAMESPACE: {
    op: 3,
    request: { model: 'text', layout: 'text', rank: 'text', group: 'text', salt: 'text' },
    reply: { namespace: 'u32' },
    about: 'Names all that makes equal keys different KV; the number is valid on this connection.',
  },
  ATTACH: {
    op: 4,
    request: { how: 'u8', path: 'text' },
    reply: { region: 'u32', sizeBytes: 'u64', sealed: 'u8' },
    about:
      'Shares memory: by path (`how` 0), or by a descriptor (`how` 1) that follows by SCM_RIGHTS with one byte as soon as an empty ' +
      '`CONTINUE` of the same tag has come. The reply follows.',
  },
  CONTINUE: { op: 5, request: {}, reply: {}, about: 'From the agent: send the descriptor now.' },
  DETACH: { op: 6, request: { region: 'u32' }, reply: {}, about: 'Answered when no job touches the region any more.' },
  LOOKUP: {
    op: 7,
    request: { namespace: 'u32', flags: 'u8', keys: 'keys' },
    reply: { tiers: 'u8s', sizes: 'u32s' },
    about:
      'Which tier has each key. Flag 1: keys are in prefix order, stop at the first that is missing. Flag 2: only look, take no lease. ' +
      'Tiers: 0 missing, 1 HBM, 2 RAM, 3 SSD, 4 there, and not to be loaded: recomputing is faster.',
  },
  LOAD: {
    op: 8,
    request: { namespace: 'u32', region: 'u32', deadlineMs: 'u32', keys: 'keys', spans: 'spans' },
    reply: { outcomes: 'u8s' },
    about:
      'A job: each chunk into its span, whose length must be the size of the chunk. Keys that have not begun when the deadline (0: none) ' +
      'has passed are not begun. Answered when nothing writes into the spans any more. A span whose outcome is not 0 holds no promise.',
  },
  STORE: {
    op: 9,
    request: { namespace: 'u32', region: 'u32', flags: 'u8', ttlMs: 'u32', parent: 'blob', keys: 'keys', spans: 'spans' },
    reply: { outcomes: 'u8s' },
    about:
      'A job: each span becomes a chunk. Flag 1: keys are a chain in prefix order, behind `parent` where that is not empty. `ttlMs` 0: the ' +
      "namespace's default. Answered when nothing reads the spans any more.",
  },
  LET_GO: { op: 10, request: keysOf, reply: { count: 'u32' }, about: 'Ends the leases that LOOKUP took.' },
  OPEN: {
    op: 11,
    request: { namespace: 'u32', key: 'blob' },
    reply: { tier: 'u8', lease: 'u32', arena: 'u32', offset: 'u64', sizeBytes: 'u32', device: 'text', handle: 'blob' },
    about:
      "A chunk where it lies. Tier 2: in an arena of the agent's, whose read-only descriptor comes by SCM_RIGHTS with the first reply that " +
      'names it. Tier 1: on a device, by IPC handle. Tier 0: missing.',
  },
  RELEASE: {
    op: 12,
    request: { leases: 'u32s' },
    reply: { held: 'u8s' },
    about: '1: the bytes were those of the chunk until now. 0: discard what was copied.',
  },
  RESERVE: {
    op: 13,
    request: { sizes: 'u32s' },
    reply: { region: 'u32', spans: 'spans' },
    about:
      'Room in memory that this client alone shares with the agent; a length of 0: none. The descriptor of the memory comes by SCM_RIGHTS ' +
      'with the first reply.',
  },
  COMMIT: {
    op: 14,
    request: { namespace: 'u32', flags: 'u8', ttlMs: 'u32', parent: 'blob', keys: 'keys', spans: 'spans' },
    reply: { outcomes: 'u8s' },
    about: 'STORE from reserved room, which is free again when it is answered.',
  },
  ABORT: { op: 15, request: { spans: 'spans' }, reply: { count: 'u32' }, about: 'Gives reserved room back.' },
  TOUCH: { op: 16, request: keysOf, reply: { count: 'u32' }, about: 'Used now, in prefix order.' },
  PREFETCH: { op: 17, request: keysOf, reply: { count: 'u32' }, about: 'From SSD into RAM, below demand. Answers how many were begun.' },
  PIN: {
    op: 18,
    request: { namespace: 'u32', mode: 'u8', keys: 'keys' },
    reply: { count: 'u32' },
    about: 'Mode 0: no pin, 1: evicted last, 2: never evicted.',
  },
  INVALIDATE: {
    op: 19,
    request: { selector: 'blob' },
    reply: { result: 'blob' },
    about: 'Selector and result in JSON, as POST /v1/invalidate.',
  },
  EVENTS: {
    op: 20,
    request: { kinds: 'u8' },
    reply: {},
    about: 'Which events are pushed from now on: 1 stored, 2 removed, 3 both, 0 none.',
  },
  EVENT: {
    op: 21,
    request: {},
    reply: { kind: 'u8', lost: 'u32', model: 'text', layout: 'text', rank: 'text', group: 'text', keys: 'keys' },
    about: 'Pushed, tag 0. `lost`: events before it that this client was too slow for.',
  },
  STATS: { op: 22, request: {}, reply: { stats: 'blob' }, about: 'As GET /v1/stats, in JSON.' },
} as const satisfies Readonly<Record<string, Operation>>;

export type OperationName = keyof typeof nativeOperations;

/** Bits and numbers of the fields. */
export const LOOKUP_PREFIX = 1;
export const LOOKUP_PEEK = 2;
export const STORE_CHAIN = 1;
export const tierNumbers = { missing: 0, hbm: 1, ram: 2, ssd: 3, notAdmitted: 4 } as const;
export const loadOutcomes = { loaded: 0, missing: 1, size: 2, fault: 3, late: 4, failed: 5 } as const;
export const storeOutcomes = {
  stored: 0,
  duplicate: 1,
  dropped: 2,
  shed: 3,
  tooLarge: 4,
  quota: 5,
  fault: 6,
  draining: 7,
  ownChain: 8,
  failed: 9,
} as const;
export const statuses = {
  ok: 0,
  malformed: 1,
  invalid: 2,
  version: 3,
  denied: 4,
  unknown: 5,
  busy: 6,
  draining: 7,
  unsupported: 8,
  failed: 9,
} as const;
export type StatusName = keyof typeof statuses;
