/**
 * Reads the headers of files that no row knows, oldest first, folder by folder. A device that does not answer says nothing about its
 * files: they are asked again once their folder is back, then one at a time, so that one bad file does not hide the others.
 *
 * Invariants: a folder that is stalled is not asked; a file that did not answer alone is not asked again before that question has ended,
 * and is given up, as unreadable, where that takes longer than GIVE_UP_MS: it would keep adoption from its end for ever.
 */
import type { Clock } from '#core/clock.ts';
import type { IoFailure } from '#ports/io-pool.ts';
import type { SsdFolder } from '#tiers/ssd/ssd-folder.ts';
import { isTimeout } from '#tiers/ssd/ssd-tier.ts';
import type { SsdTier } from '#tiers/ssd/ssd-tier.ts';

export interface FilesOfFolder {
  readonly folder: SsdFolder;
  readonly generations: readonly number[];
}

/** Of `generations` one by one; undefined: it cannot be read. */
export interface HeadersOfFolder extends FilesOfFolder {
  readonly headers: readonly (Uint8Array | undefined)[];
}

/** A file that was asked alone and did not answer in time. */
interface Silent {
  readonly sinceMs: number;
  ended: boolean;
}

const HEADERS_AT_ONCE = 64;
const AGAIN_MS = 1000;
const GIVE_UP_MS = 600_000;

export class HeaderReader {
  readonly #ssd: SsdTier;
  readonly #clock: Clock;
  readonly #silent = new Map<number, Silent>();
  #stopped = false;
  #wake: () => void = () => {};

  constructor(parts: { readonly ssd: SsdTier; readonly clock: Clock }) {
    this.#ssd = parts.ssd;
    this.#clock = parts.clock;
  }

  /** Ends with the batch that is being read; a folder that does not answer is not waited for. */
  stop(): void {
    this.#stopped = true;
    this.#wake();
  }

  /** Each file once, except those of folders that are off or that no answer came from before `stop`. */
  async *read(parts: readonly FilesOfFolder[]): AsyncGenerator<HeadersOfFolder, void, undefined> {
    let atOnce = HEADERS_AT_ONCE;
    for (let left = parts; left.length > 0 && !this.#stopped; atOnce = 1) {
      const again: FilesOfFolder[] = [];
      for (const { folder, generations } of left) {
        const unread = yield* this.#readFolder({ folder, generations }, atOnce);
        if (unread.length > 0) again.push({ folder, generations: unread });
      }
      left = again;
      if (left.length > 0) await this.#pause();
    }
  }

  /** Answers which files are to be asked again. */
  async *#readFolder(
    { folder, generations }: FilesOfFolder,
    atOnce: number,
  ): AsyncGenerator<HeadersOfFolder, readonly number[], undefined> {
    const unread: number[] = [];
    for (let start = 0; start < generations.length; start += atOnce) {
      if (this.#stopped || folder.state === 'off') return [];
      const batch = generations.slice(start, start + atOnce);
      const mayAsk = this.#mayAsk(batch);
      if (mayAsk === 'never') {
        yield { folder, generations: batch, headers: batch.map(() => undefined) };
        continue;
      }
      if (folder.state === 'stalled') return [...unread, ...generations.slice(start)];
      if (mayAsk === 'later') {
        unread.push(...batch);
        continue;
      }
      const headers = await this.#ssd.readHeaders(folder, batch);
      const timeout = headers.find((header): header is IoFailure => !(header instanceof Uint8Array) && isTimeout(header));
      if (timeout === undefined) {
        if ((folder.state as string) !== 'off')
          yield { folder, generations: batch, headers: headers.map((header) => (header instanceof Uint8Array ? header : undefined)) };
        continue;
      }
      if (batch.length === 1 && timeout.late !== undefined) this.#noteSilent(batch[0] ?? 0, timeout.late);
      unread.push(...batch);
    }
    return unread;
  }

  #noteSilent(generation: number, late: Promise<unknown>): void {
    const silent = this.#silent.get(generation) ?? { sinceMs: this.#clock.monotonicMs(), ended: false };
    silent.ended = false;
    this.#silent.set(generation, silent);
    void late.finally(() => void (silent.ended = true));
  }

  #mayAsk(batch: readonly number[]): 'now' | 'later' | 'never' {
    const silent = this.#silent.get(batch[0] ?? 0);
    if (silent === undefined) return 'now';
    if (this.#clock.monotonicMs() - silent.sinceMs > GIVE_UP_MS) return 'never';
    return silent.ended ? 'now' : 'later';
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#clock.schedule(AGAIN_MS, resolve);
      this.#wake = (): void => (cancel(), resolve());
    });
  }
}
