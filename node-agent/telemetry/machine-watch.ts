/**
 * Watches what the machine does to the agent: memory pressure of its cgroup, descriptors that run out, a wall clock that jumps. Says so in
 * health, log and metrics; changes nothing itself but whether the doors listen, which the caller does.
 *
 * Invariants: a state is logged when it begins and when it ends, never each time that it is looked at; doors are paused and resumed by
 * turns; nothing here depends on the wall clock but the finding that it jumped.
 */
import { assert } from '#core/assert.ts';
import { formatBytes } from '#core/bytes.ts';
import type { Clock } from '#core/clock.ts';
import { formatDuration } from '#core/duration.ts';
import type { Logger } from '#core/logger.ts';
import type { MachineProbes, MemoryReading } from '#ports/machine-watch.ts';

export interface MachineWatchOptions extends MachineProbes {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Stop listening: nothing can be accepted, and trying costs a core. */
  readonly pauseDoors: () => void;
  /** Listen again. False: it failed, and is tried again. */
  readonly resumeDoors: () => boolean;
}

export interface WatchCounts {
  readonly memoryEvents: Readonly<Record<'high' | 'max' | 'oom' | 'oom_kill', number>>;
  /** Share of the last 10 s in which every task of the cgroup waited for memory. */
  readonly memoryStallRatio: number;
  readonly clockJumps: number;
  readonly descriptorLimit: number;
  readonly doorPauses: number;
}

const TICK_MS = 1000;
/** Clocks are disciplined by less than this in a second; a step or a suspended machine moves by more. */
const JUMP_MS = 2000;
/** Left for files, duplicates for transfers, and whoever asks for health. */
const RESERVED_DESCRIPTORS = 16;
/** Free again before the doors open, so that they do not open and close in turns. */
const RESUME_DESCRIPTORS = 64;
const STALL_PERCENT = 10;
/** Pressure counts as over when nothing was seen for so long. */
const CALM_MS = 60_000;

export class MachineWatch {
  readonly #options: MachineWatchOptions;
  #cancel: (() => void) | undefined;
  #wallMs = 0;
  #monotonicMs = 0;
  #jumps = 0;
  readonly #firstMemory: MemoryReading | undefined;
  #memory: MemoryReading | undefined;
  #pressureUntilMs = Number.NEGATIVE_INFINITY;
  #pressure = '';
  #paused = false;
  #pauses = 0;

  constructor(options: MachineWatchOptions) {
    this.#options = options;
    this.#firstMemory = options.readMemory();
    this.#memory = this.#firstMemory;
  }

  start(): void {
    const { clock } = this.#options;
    [this.#wallMs, this.#monotonicMs] = [clock.nowMs(), clock.monotonicMs()];
    const tick = (): void => {
      this.#cancel = clock.schedule(TICK_MS, () => {
        this.look();
        tick();
      });
    };
    tick();
  }

  stop(): void {
    this.#cancel?.();
  }

  /** One look at everything; the timer calls it. */
  look(): void {
    this.#lookAtClock();
    this.#lookAtMemory();
    this.#lookAtDescriptors();
  }

  #lookAtClock(): void {
    const { clock, logger } = this.#options;
    const [wallMs, monotonicMs] = [clock.nowMs(), clock.monotonicMs()];
    const jumpMs = wallMs - this.#wallMs - (monotonicMs - this.#monotonicMs);
    [this.#wallMs, this.#monotonicMs] = [wallMs, monotonicMs];
    if (Math.abs(jumpMs) < JUMP_MS) return;
    this.#jumps += 1;
    const direction = jumpMs > 0 ? 'forwards' : 'backwards';
    logger.warn(
      `The wall clock jumped ${formatDuration(Math.abs(jumpMs))} ${direction}: times of last use and creation do not compare across it`,
      {
        jumpMs: Math.round(jumpMs),
      },
    );
  }

  #lookAtMemory(): void {
    const { clock, logger, readMemory } = this.#options;
    const now = readMemory();
    const before = this.#memory;
    if (now === undefined || before === undefined) return;
    this.#memory = now;
    const said = pressureOf(before, now);
    if (said !== undefined) {
      const isNew = this.#pressure === '';
      this.#pressure = said;
      this.#pressureUntilMs = clock.monotonicMs() + CALM_MS;
      if (isNew) logger.warn(`Memory pressure: ${said}. The RAM tier does not shrink by itself`, {});
    } else if (this.#pressure !== '' && clock.monotonicMs() >= this.#pressureUntilMs) {
      this.#pressure = '';
      logger.info('Memory pressure is over', {});
    }
  }

  #lookAtDescriptors(): void {
    const { logger, lowestFreeDescriptor, descriptorLimit, pauseDoors, resumeDoors } = this.#options;
    const lowest = lowestFreeDescriptor();
    const left = lowest < 0 ? 0 : descriptorLimit - lowest;
    if (!this.#paused && left < RESERVED_DESCRIPTORS) {
      this.#paused = true;
      this.#pauses += 1;
      logger.error('The limit of open files is reached: no connections are accepted until some are free', { descriptorLimit });
      pauseDoors();
    } else if (this.#paused && left >= Math.min(RESUME_DESCRIPTORS, descriptorLimit / 4) && resumeDoors()) {
      this.#paused = false;
      logger.info('Connections are accepted again', {});
    }
  }

  /** What is wrong now, a sentence each, for the health of the agent. */
  reasons(): readonly string[] {
    const reasons: string[] = [];
    if (this.#pressure !== '')
      reasons.push(`memory: ${this.#pressure}; lower --ram (the tier does not shrink by itself) or raise the limit of the cgroup`);
    if (this.#paused)
      reasons.push(
        `descriptors: all ${this.#options.descriptorLimit} are in use, no connections are accepted; raise the limit of open files or lower --resp-max-connections`,
      );
    return reasons;
  }

  counts(): WatchCounts {
    const [first, now] = [this.#firstMemory, this.#memory];
    const since = (name: 'high' | 'max' | 'oom' | 'oomKill'): number => Math.max(0, (now?.[name] ?? 0) - (first?.[name] ?? 0));
    return {
      memoryEvents: { high: since('high'), max: since('max'), oom: since('oom'), oom_kill: since('oomKill') },
      memoryStallRatio: (now?.fullAvg10 ?? 0) / 100,
      clockJumps: this.#jumps,
      descriptorLimit: this.#options.descriptorLimit,
      doorPauses: this.#pauses,
    };
  }

  checkInvariants(): void {
    assert(!this.#paused || this.#pauses > 0, 'doors that are paused were counted');
  }
}

/**
 * A group at its limit reclaims page cache, which is normal and counted as `max` too: only together with tasks that wait does it mean
 * anything. Tasks that wait much, or one that was killed, do so alone.
 */
function pressureOf(before: MemoryReading, now: MemoryReading): string | undefined {
  const holds = `the cgroup holds ${formatBytes(now.currentBytes)}${now.limitBytes === undefined ? '' : ` of ${formatBytes(now.limitBytes)}`}`;
  if (now.oomKill > before.oomKill) return `a process of the cgroup was killed for memory; ${holds}`;
  if (now.oom > before.oom) return `the cgroup ran out of memory; ${holds}`;
  if (now.fullAvg10 >= STALL_PERCENT) return `everything waited for memory in ${Math.round(now.fullAvg10)} % of the last 10 s; ${holds}`;
  if ((now.high > before.high || now.max > before.max) && now.someAvg10 >= STALL_PERCENT) {
    return `the cgroup is at its limit and tasks waited for memory in ${Math.round(now.someAvg10)} % of the last 10 s; ${holds}`;
  }
  return undefined;
}

/** What threads, files, the catalog and HTTP need besides connections. */
const BASE_DESCRIPTORS = 256;
/** The socket, and its duplicate while a transfer runs. */
const PER_CONNECTION = 2;

export function descriptorsFor(maxConnections: number): number {
  return BASE_DESCRIPTORS + PER_CONNECTION * maxConnections;
}

/** Connections that a limit of open files allows, at least one. */
export function connectionsWithin(descriptorLimit: number): number {
  return Math.max(1, Math.floor((descriptorLimit - BASE_DESCRIPTORS) / PER_CONNECTION));
}
