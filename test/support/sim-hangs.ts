/**
 * Devices that do not answer. A hang belongs to the machine and outlives a process: jobs that it holds make no step until it is over, or,
 * with some that have passed their deadline already, until a time of their own. What a job does so late it does for real: bytes land in the
 * memory that it was given, a file gets its name.
 *
 * The deadline is of the simulated clock and counts from where a job runs, as in the pool: few run at once, and those whose deadline has
 * passed take no thread from the others.
 */
import type { SimClock, SimRng } from './sim-clock.ts';
import type { SimDisk } from './sim-disk.ts';
import type { SimJob, SimJobKind } from './sim-file-io.ts';

/** Shorter than the pool's, so that a run sees many. */
export const SIM_DEADLINE_MS = 2000;
const WATCH_MS = 250;
/** Jobs that run and do not answer, for whom nobody has been told yet. */
const THREADS = 3;
/** Of those that have passed their deadline; the rest waits for its device. */
const LATE_SHARE = 0.5;
const LATEST_MS = 20_000;
const durations = [800, 3000, 8000, 20_000, 60_000] as const;

export interface SimHang {
  /** Start of the path of what hangs: a device, or a file. */
  readonly pathStart: string;
  /** All, unless named. */
  readonly kind?: SimJobKind;
  readonly untilMs: number;
}

/** Of one machine, in all its lives. */
export class SimHangs {
  readonly #clock: SimClock;
  #hangs: SimHang[] = [];

  constructor(clock: SimClock) {
    this.#clock = clock;
  }

  get isAny(): boolean {
    return this.#hangs.length > 0;
  }

  /** One that the seed decides on: a device, one kind of its work, one file of it, or nothing but what asks whether it is back. */
  begin(rng: SimRng, disk: SimDisk, devices: number): SimHang {
    const device = `/ssd${rng.below(devices)}/`;
    const what = rng.weighted({ device: 4, kind: 4, file: 2, probe: 1 });
    const files = what === 'file' ? disk.filesBelow(device.slice(0, -1)).filter((path) => path.endsWith('.kv')) : [];
    const hang: SimHang = {
      pathStart: files.length > 0 ? rng.pick(files) : what === 'probe' ? `${device}kv/00/probe` : device,
      ...(what === 'kind' ? { kind: rng.pick(['write', 'read', 'unlink', 'headers'] as const) } : {}),
      untilMs: this.#clock.monotonicMs() + rng.pick(durations),
    };
    this.#hangs.push(hang);
    return hang;
  }

  /** All devices answer. */
  end(): void {
    this.#hangs = [];
  }

  holds({ kind, path }: SimJob): boolean {
    const nowMs = this.#clock.monotonicMs();
    if (this.#hangs.some(({ untilMs }) => untilMs <= nowMs)) this.#hangs = this.#hangs.filter(({ untilMs }) => untilMs > nowMs);
    return this.#hangs.some((hang) => path.startsWith(hang.pathStart) && (hang.kind ?? kind) === kind);
  }
}

/** The pool's watch over the jobs of one process. Its timer goes with the process. */
export class SimWatch {
  readonly #parts: { readonly hangs: SimHangs; readonly clock: SimClock; readonly rng: SimRng; readonly jobs: readonly SimJob[] };
  /** When a job that passed its deadline goes on although its device hangs. */
  readonly #comesAtMs = new WeakMap<SimJob, number>();
  #isOn = false;

  constructor(parts: { readonly hangs: SimHangs; readonly clock: SimClock; readonly rng: SimRng; readonly jobs: readonly SimJob[] }) {
    this.#parts = parts;
    this.look();
  }

  /** From now on, as long as something hangs. */
  look(): void {
    const { hangs, clock } = this.#parts;
    if (this.#isOn || !hangs.isAny) return;
    this.#isOn = true;
    clock.schedule(WATCH_MS, () => {
      this.#isOn = false;
      this.#look();
      this.look();
    });
  }

  mayStep(job: SimJob): boolean {
    const { hangs, clock } = this.#parts;
    return !hangs.holds(job) || clock.monotonicMs() >= (this.#comesAtMs.get(job) ?? Number.POSITIVE_INFINITY);
  }

  #look(): void {
    const { hangs, clock, rng, jobs } = this.#parts;
    const nowMs = clock.monotonicMs();
    const held = jobs.filter((job) => job.late === undefined && hangs.holds(job));
    let running = held.filter((job) => job.runsSinceMs !== undefined).length;
    for (const job of held) {
      if (job.runsSinceMs === undefined) {
        // One that has done a step runs, whatever the others do.
        if (running >= THREADS && job.done === 0) continue;
        job.runsSinceMs = nowMs;
        running += 1;
      } else if (nowMs - job.runsSinceMs >= SIM_DEADLINE_MS) {
        if (rng.chance(LATE_SHARE)) this.#comesAtMs.set(job, nowMs + rng.below(LATEST_MS));
        job.late = Promise.withResolvers<boolean>();
        job.fail(timedOut(job.kind, job.late.promise));
      }
    }
  }
}

function timedOut(step: SimJobKind, late: Promise<boolean>): { ok: false; errno: number; step: string; late: Promise<boolean> } {
  return { ok: false, errno: 110, step, late };
}
