/** The configuration as the agent uses it: sizes in bytes, durations in milliseconds, absolute paths, every `auto` decided. */
import type { DeviceName } from './hbm.ts';
import type { Address } from './knob-types.ts';
import type { TtlRule } from './ttl-rules.ts';

export interface SsdFolder {
  readonly path: string;
  readonly sizeBytes: number;
}

/** Secrets. Undefined: none wanted. */
export interface TokenValues {
  readonly admin: string | undefined;
  readonly read: string | undefined;
  /** Name of the tenant -> its token. */
  readonly tenants: ReadonlyMap<string, string>;
}

export type PolicyName = 'adaptive' | 'leaf-lru' | 'slru' | 'arc' | 'fifo';

export interface AgentConfig {
  readonly configFile: string | undefined;
  readonly dataDir: string;
  readonly http: { readonly listen: Address; readonly maxBodyBytes: number };
  readonly resp: {
    /** Undefined: the door is off. */
    readonly listen: Address | undefined;
    /** Undefined: the agent listens itself. */
    readonly front: string | undefined;
    readonly profile: 'auto' | 'lmcache' | 'redis';
    readonly maxConnections: number;
    readonly sizeGuard: 'auto' | 'on' | 'off';
    /** Undefined: idle connections stay. */
    readonly idleMs: number | undefined;
    readonly stallMs: number;
    /** 0: none. */
    readonly minBytesPerSecond: number;
  };
  /** Has no authentication. Shares the limits of `resp`. Undefined: the door is off. */
  readonly lm: { readonly listen: Address | undefined };
  /** The native door. `path` undefined: it is off. */
  readonly socket: {
    readonly path: string | undefined;
    /** Permission bits. */
    readonly mode: number;
    readonly group: string | undefined;
    /** Absolute. */
    readonly regionRoots: readonly string[];
    readonly maxConnections: number;
    readonly reserveBytes: number;
  };
  /** Absolute paths; undefined: HTTP and RESP are plain. */
  readonly tls: { readonly certPath: string; readonly keyPath: string } | undefined;
  /** A read token or tenants' tokens never stand alone, and no two tokens are equal. */
  readonly tokens: TokenValues;
  /** True: cache salts are shown as they are. */
  readonly tenants: { readonly reveal: boolean };
  readonly ram: {
    readonly sizeBytes: number;
    /** At most a quarter of sizeBytes. */
    readonly maxChunkBytes: number;
    readonly shmDir: string;
    readonly hugepages: boolean;
    /** The tier outlives the process. */
    readonly keep: boolean;
    readonly policy: PolicyName;
  };
  readonly ssd: {
    /** Sum of the folders; 0 where the tier is off. */
    readonly sizeBytes: number;
    /** Empty exactly where the tier is off. No folder twice or inside another. */
    readonly folders: readonly SsdFolder[];
    readonly policy: PolicyName;
    readonly admission: 'idle' | 'demote' | 'through' | 'second-use' | 'off';
    readonly idleAfterMs: number;
    /** 0: no limit. */
    readonly writeBudgetBytesPerSecond: number;
    readonly freeSpaceFloorBytes: number;
    readonly direct: 'auto' | 'on' | 'off';
    /** At least ram.maxChunkBytes, at most half of the RAM tier. */
    readonly queueBytes: number;
    readonly ioDeadlineMs: number;
  };
  readonly hbm: {
    /** 'auto' and 'off': no pool, and no context on any device. */
    readonly share: 'auto' | 'off' | 'sizes';
    /** Empty exactly where there is no pool; one for every device, or one for each of `devices`. */
    readonly sizesBytes: readonly number[];
    /** None twice. Empty: every device that the driver has. */
    readonly devices: readonly DeviceName[];
    /** False where there is no pool. */
    readonly required: boolean;
    readonly driver: 'real' | 'emulated';
    /** Absolute, or a bare name for the loader. Undefined: the driver's usual name. */
    readonly driverPath: string | undefined;
    readonly promoteHits: number;
    readonly promoteWindowMs: number;
    readonly policy: PolicyName;
  };
  readonly lease: { readonly durationMs: number };
  /** 0: for ever. */
  readonly ttl: { readonly defaultMs: number; readonly rules: readonly TtlRule[] };
  readonly put: { readonly waitMs: number };
  /** 0: off. */
  readonly readAhead: { readonly bytes: number };
  readonly io: { readonly workers: number };
  readonly invalidate: { readonly webhook: string | undefined };
  readonly shutdown: { readonly drainMs: number };
  readonly log: { readonly level: 'debug' | 'info' | 'warn' | 'error'; readonly format: 'pretty' | 'json' };
}
