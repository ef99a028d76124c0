/**
 * Events of one client: which chunks came and went, gathered until the change that made them is over, sent in as few frames as their
 * order allows.
 *
 * Invariants: at most MAX_KEYS_WAITING keys wait for the client to read; what finds no room is counted, and the next frame says how many
 * were lost; nothing is sent in the middle of a change of the cache.
 */
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { encodeFrame } from '#protocol/native/native-codec.ts';
import { nativeOperations } from '#protocol/native/native-schema.ts';
import type { FrameQueue } from './frame-queue.ts';

const MAX_KEYS_WAITING = 4096;
/** Of one frame. */
const MAX_KEYS_PER_FRAME = 512;
const kinds = { stored: 1, removed: 2 } as const;

interface Run {
  readonly kind: 1 | 2;
  readonly descriptor: NamespaceDescriptor;
  readonly keys: Uint8Array[];
}

export class NativeEvents {
  readonly #frames: FrameQueue;
  /** Undefined: of all tenants. */
  readonly #tenant: string | undefined;
  /** Bits of `kinds`. */
  wanted = 0;
  #runs: Run[] = [];
  #keys = 0;
  #lost = 0;
  #isScheduled = false;

  constructor(frames: FrameQueue, tenant: string | undefined) {
    this.#frames = frames;
    this.#tenant = tenant;
  }

  /** `key` is valid during the call. */
  add(name: 'stored' | 'removed', descriptor: NamespaceDescriptor, key: Uint8Array): void {
    const kind = kinds[name];
    const isOwn = this.#tenant === undefined || descriptor.tenant === this.#tenant;
    if ((this.wanted & kind) === 0 || !isOwn || descriptor.grammar !== 'native') return;
    if (this.#keys >= MAX_KEYS_WAITING) {
      this.#lost += 1;
      return;
    }
    this.#keys += 1;
    const last = this.#runs.at(-1);
    if (last !== undefined && last.kind === kind && last.descriptor === descriptor && last.keys.length < MAX_KEYS_PER_FRAME)
      last.keys.push(key.slice());
    else this.#runs.push({ kind, descriptor, keys: [key.slice()] });
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => this.#flush());
  }

  #flush(): void {
    this.#isScheduled = false;
    const { op, reply } = nativeOperations.EVENT;
    while (!this.#frames.isBlocked) {
      const run = this.#runs.shift();
      if (run === undefined) return;
      this.#keys -= run.keys.length;
      const { model, rank, group, tags } = run.descriptor;
      const lost = this.#lost;
      this.#lost = 0;
      this.#frames.send(
        encodeFrame({ op, tag: 0 }, reply, {
          kind: run.kind,
          lost: Math.min(lost, 0xffff_ffff),
          model,
          layout: tags['layout'] ?? '',
          rank,
          group,
          keys: run.keys,
        }),
      );
    }
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    void this.#frames.drained().then(() => this.#flush());
  }
}
