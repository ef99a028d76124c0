/** What the command line needs of its host. main.ts gives the real ones, tests their own. */
import type { AgentConfig } from '#config/agent-config.ts';
import type { Address } from '#config/knob-types.ts';
import type { MachineFacts } from '#config/derive.ts';
import type { FactsQuery, LoadedConfig } from '#config/load-config.ts';
import type { FetchLike } from '#client/kvtier-client.ts';

export interface Output {
  write(text: string): void;
  /** A person is looking: colours and progress that overwrites itself. */
  readonly isTerminal: boolean;
}

export interface VerifyMismatch {
  readonly path: string;
  readonly key: string;
  readonly problem: string;
}

/** Same shape as the lines of `POST /v1/verify`. */
export interface VerifyStep {
  readonly checkedFiles: number;
  readonly totalFiles: number;
  readonly checkedBytes: number;
  readonly mismatches: readonly VerifyMismatch[];
  readonly done: boolean;
}

export interface FolderProbe {
  readonly exists: boolean;
  /** A file can be made in it, or in the nearest folder above where it does not exist. */
  readonly writable: boolean;
  /** Undefined where it could not be tried. */
  readonly direct: boolean | undefined;
  /** Why it is not writable, otherwise ''. */
  readonly problem: string;
}

/** RAM that an agent left in shared memory when it ended, or that a live one has. */
export interface KeptRam {
  readonly path: string;
  readonly dataDir: string | undefined;
  readonly sizeBytes: number;
  readonly sinceMs: number;
  readonly inUse: boolean;
}

/** A GPU, and what became of copies to and from it. */
export interface GpuProbe {
  readonly ordinal: number;
  readonly name: string;
  readonly uuid: string;
  readonly totalBytes: number;
  /** `32.0 GT/s PCIe x16`; '' where the kernel does not say. */
  readonly link: string;
  /** Undefined: not tried. */
  readonly copy:
    | { readonly reason: string }
    | {
        readonly freeBytes: number;
        readonly toDeviceBytesPerSecond: number;
        readonly toHostBytesPerSecond: number;
        /** ms for each GiB, or why memory cannot be pinned. */
        readonly pinning: number | string;
      }
    | undefined;
}

/** Looks at the host for `kvtier doctor`. Leaves nothing behind. */
export interface DoctorProbes {
  folder(path: string): FolderProbe;
  /** Soft limits; Infinity for unlimited, undefined where unknown. */
  limits(): { readonly openFiles: number | undefined; readonly lockedBytes: number | undefined };
  /** Path of a shared library, or undefined. */
  library(name: string): string | undefined;
  /** Why the address cannot be listened on, or '' where it can. */
  port(address: Address): Promise<string>;
  /** Devices of the driver that the configuration names; with `copies` each is tried for a second. */
  gpus(
    config: AgentConfig,
    options: { readonly copies: boolean },
  ): Promise<
    { readonly reason: string } | { readonly kind: string; readonly driverVersion: string; readonly devices: readonly GpuProbe[] }
  >;
  /** Largest first. */
  keptRam(shmDir: string): readonly KeptRam[];
}

export interface CliDeps {
  readonly version: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly stdout: Output;
  readonly stderr: Output;
  /** Undefined where the file does not exist. */
  readonly readFile: (path: string) => string | undefined;
  readonly facts: (query: FactsQuery) => MachineFacts;
  /** Runs the agent until it is told to stop; gives its exit code. */
  readonly serve: (loaded: LoadedConfig) => Promise<number>;
  /** Holds client connections for agents that come and go, until it is told to stop; gives its exit code. */
  readonly front: (loaded: LoadedConfig) => Promise<number>;
  /** Reads every chunk file of the folders; no agent may own them. */
  readonly verifyOffline: (folders: readonly string[]) => AsyncIterable<VerifyStep>;
  readonly probes: DoctorProbes;
  /** Frees the RAM that the agent of a data directory left; nothing of a live one. */
  readonly dropKeptRam: (
    shmDir: string,
    dataDir: string,
  ) => { readonly outcome: 'dropped'; readonly sizeBytes: number } | { readonly outcome: 'none' | 'in-use' };
  /** Wall clock in milliseconds since 1970. */
  readonly nowMs: () => number;
  readonly fetch?: FetchLike;
}
