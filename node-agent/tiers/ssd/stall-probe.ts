/**
 * Brings a folder back that did not answer: writes a small file, reads it again and removes it, with back-off. A probe may get stuck
 * itself, so there is one at a time for a folder, and none while the last one has not ended.
 *
 * Invariants: at most one probe of a folder is under way, whatever became of it; a folder that stalls again soon is left alone for
 * longer, so that a device that hangs now and then does not hold up a request each time.
 */
import { assert } from '#core/assert.ts';
import { BLOCK_BYTES } from '#core/bytes.ts';
import type { Address } from '#core/brand.ts';
import type { Clock } from '#core/clock.ts';
import { errnoName } from '#core/errors.ts';
import type { Logger } from '#core/logger.ts';
import type { FileIo, IoFailure } from '#ports/io-pool.ts';
import type { SsdFolder } from './ssd-folder.ts';

export interface StallProbeOptions {
  readonly files: FileIo;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Watch {
  running: boolean;
  nextAtMs: number;
  waitMs: number;
  /** Of the last probe; of the stall's beginning before the first. */
  endedAtMs: number;
}

const FIRST_WAIT_MS = 2000;
const LONGEST_WAIT_MS = 60_000;
/** After this long without another stall the back-off begins anew. */
const CALM_MS = 600_000;
/** `probe` in binary, so that a page of zeroes is not taken for what was written. */
const PROBE_BYTE = 0x70;

export class StallProbe {
  readonly #options: StallProbeOptions;
  readonly #watches = new Map<SsdFolder, Watch>();

  constructor(options: StallProbeOptions) {
    this.#options = options;
  }

  /** The folder stalls from now on. */
  began(folder: SsdFolder): void {
    const nowMs = this.#options.clock.monotonicMs();
    const known = this.#watches.get(folder);
    const waitMs = known === undefined || nowMs - known.endedAtMs >= CALM_MS ? FIRST_WAIT_MS : known.waitMs;
    this.#watches.set(folder, { running: known?.running ?? false, waitMs, nextAtMs: nowMs + waitMs, endedAtMs: nowMs });
  }

  /** Called now and then for each folder that is stalled. Never waits. */
  tryNow(folder: SsdFolder): void {
    const watch = this.#watches.get(folder);
    assert(watch !== undefined, `the stall of ${folder.path} was told`);
    if (watch.running || this.#options.clock.monotonicMs() < watch.nextAtMs) return;
    watch.running = true;
    void this.#probe(folder).then((problem) => this.#ended(folder, problem?.late));
  }

  async #probe(folder: SsdFolder): Promise<IoFailure | undefined> {
    const { logger } = this.#options;
    const path = `${folder.path}/00/probe`;
    const content = new Uint8Array(BLOCK_BYTES).fill(PROBE_BYTE);
    const problem = await this.#roundTrip(path, content);
    if (problem !== undefined) {
      logger.info(`SSD folder ${folder.path} still does not answer`, { problem: `${problem.step}: ${errnoName(problem.errno)}` });
      return problem;
    }
    if (folder.state !== 'stalled') return undefined;
    folder.endStall();
    logger.info(`SSD folder ${folder.path} answers again`, {});
    return undefined;
  }

  async #roundTrip(path: string, content: Uint8Array): Promise<IoFailure | undefined> {
    const { files } = this.#options;
    const job = { tempPath: `${path}.tmp`, path, header: content, address: 0 as Address, sizeBytes: 0, direct: true, sync: true };
    const written = await files.writeChunk(job);
    if (!written.ok) return written;
    const [read] = await files.readHeaders([path]);
    if (read === undefined) return { ok: false, errno: 5, step: 'read' };
    if (!(read instanceof Uint8Array)) return read;
    if (!read.every((byte, index) => byte === content[index])) return { ok: false, errno: 5, step: 'read other bytes' };
    const gone = await files.unlink(path);
    return gone.ok ? undefined : gone;
  }

  #ended(folder: SsdFolder, late: Promise<unknown> | undefined): void {
    const watch = this.#watches.get(folder);
    assert(watch?.running === true, 'a probe ends once');
    watch.endedAtMs = this.#options.clock.monotonicMs();
    watch.waitMs = Math.min(LONGEST_WAIT_MS, 2 * watch.waitMs);
    watch.nextAtMs = watch.endedAtMs + watch.waitMs;
    const over = (): void => {
      const now = this.#watches.get(folder);
      if (now !== undefined) now.running = false;
    };
    if (late === undefined) over();
    else void late.finally(over);
  }

  checkInvariants(): void {
    for (const { waitMs } of this.#watches.values()) assert(waitMs <= LONGEST_WAIT_MS, 'a probe waits no longer than a minute');
  }
}
