/** What happens next in a simulated world: a network or a disk moves, somebody asks, time passes, something breaks. */
import type { Cache } from '#cache/cache.ts';
import { KvtierError } from '#core/errors.ts';
import type { SimRng } from './sim-clock.ts';
import { JOURNAL_PATH } from './sim-agent.ts';
import { SimStop } from './sim-file-system.ts';
import { LONGEST_TTL_MS, SimCommands } from './sim-commands.ts';
import { SimKeep } from './sim-keep.ts';
import { SimLmCommands } from './sim-lm-commands.ts';
import { SimNativeCommands } from './sim-native-commands.ts';
import { SimListener } from './sim-listener.ts';
import type { SimPinned } from './sim-listener.ts';
import { SimLiveness } from './sim-liveness.ts';
import { SimMischief } from './sim-mischief.ts';
import { SimOperators } from './sim-operators.ts';
import { HOUR_MS } from './sim-time.ts';
import type { SimWorld } from './sim-world.ts';

/** For what a stop does behind its deadline: journal and catalog are closed. */
const STOP_SLACK_MS = 1000;

export class SimWorkload {
  readonly #world: SimWorld;
  readonly #rng: SimRng;
  readonly commands: SimCommands;
  readonly operators: SimOperators;
  /** Where that door is open. */
  readonly lm: SimLmCommands | undefined;
  readonly native: SimNativeCommands | undefined;
  /** Where RAM outlives the process. */
  readonly keep: SimKeep | undefined;
  readonly #mischief: SimMischief;
  readonly #liveness: SimLiveness;
  /** The start failed: a supervisor tries again. */
  #startFailed = false;
  /** What the life before had pinned hard. */
  #pinned: readonly SimPinned[] = [];
  /** What ends the process in the middle of something is a power cut. */
  #stopCutsPower = false;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
    this.commands = new SimCommands(world);
    this.operators = new SimOperators(world);
    this.#mischief = new SimMischief(world);
    this.#liveness = new SimLiveness(world);
    this.lm = world.options.lm === true ? new SimLmCommands(world) : undefined;
    this.native = world.options.native === true ? new SimNativeCommands(world) : undefined;
    this.keep = world.options.keep === true ? new SimKeep(world) : undefined;
    world.agent.onCache = (cache) => this.#listen(cache);
    world.agent.onStartFailed = (problem) => {
      if (problem instanceof KvtierError && (world.options.faults ?? 0) > 0) this.#startFailed = true;
      else world.agent.fail(problem);
    };
  }

  #listen(cache: Cache): void {
    const { agent, oracle, options, time } = this.#world;
    time.begin(agent.life?.tombstones?.clockMs ?? 0, this.#world.keepsFiles);
    const listener = new SimListener(cache, {
      clock: agent.clock,
      leaseMs: options.limits?.leaseMs ?? 30_000,
      tick: () => oracle.begin().begin,
      fail: (problem) => agent.fail(problem),
    });
    listener.judgesLeases = this.#world.keepsFiles && this.keep?.isDamaged !== true && (options.deviceFaults ?? 0) === 0;
    if (listener.judgesLeases) listener.expect(this.#pinned);
    this.#pinned = [];
    this.#world.listener = listener;
  }

  /** The next thing; where the process ends in the middle of it, the start of the next process. */
  one(): void {
    this.alive(() => this.#one());
  }

  /** Runs what makes the process work; where that ends it (`stopDuring`), the next one starts. */
  alive(work: () => void): void {
    try {
      work();
    } catch (problem) {
      if (!(problem instanceof SimStop)) throw problem;
    }
    if (this.#world.agent.disk.data.isStopped) this.kill(this.#stopCutsPower);
  }

  #one(): void {
    const { agent, options, time } = this.#world;
    const perThousand = (events: number | undefined): number => (events ?? 0) / 10;
    const action = this.#rng.weighted({
      network: 56,
      io: 18,
      client: 16,
      time: 4,
      operator: 1.5,
      lm: this.lm === undefined ? 0 : 8,
      native: this.native === undefined ? 0 : 14,
      catalog: 2,
      delay: perThousand(options.delays),
      reset: perThousand(options.resets),
      fault: perThousand(options.faults),
      kill: perThousand(options.kills),
      powerCut: perThousand(options.powerCuts),
      jump: perThousand(options.jumps),
      hang: perThousand(options.hangs),
      stop: perThousand(options.stops),
      device: perThousand(options.deviceFaults),
    });
    if (this.#startFailed) return this.kill();
    if (action === 'network') return void (agent.stepNetwork() || this.commands.one());
    if (action === 'io') return void (agent.stepIo() || agent.stepNetwork());
    if (action === 'client') return this.commands.one();
    if (action === 'time' && this.#rng.chance(0.15)) return this.commands.readAtItsEnd();
    if (action === 'lm') return this.lm?.one();
    if (action === 'native') return this.native?.one();
    if (action === 'time') return agent.advance(this.#rng.pick([1, 5, 20, 100, 300, 1000, 3000, 12_000]));
    if (action === 'operator') return this.operators.one();
    if (action === 'catalog') return void (agent.stepCatalog() || agent.stepIo());
    if (action === 'delay') return this.#mischief.delay();
    if (action === 'reset') return this.#reset();
    if (action === 'jump') return this.#rng.chance(0.2) ? this.#passingJump() : this.#jump(() => time.jump(this.#rng));
    if (action === 'fault') return this.#mischief.fault();
    if (action === 'hang') return this.#mischief.hang();
    if (action === 'stop') return this.#stop();
    if (action === 'device') return this.#mischief.deviceFault();
    const powerCut = action === 'powerCut';
    if (options.compactionBytes !== undefined && this.#rng.chance(0.3)) return this.#killInCompaction(powerCut);
    this.kill(powerCut);
  }

  /** As `kill`, in the next compaction of the journal: before it has begun, with its file written, synced or renamed, or right after it. */
  #killInCompaction(powerCut: boolean): void {
    this.#world.note('to be killed in a compaction');
    this.#stopCutsPower = powerCut;
    this.#world.agent.disk.data.stopDuring(JOURNAL_PATH, 1 + this.#rng.below(8));
  }

  /** SIGKILL, or a power cut, and a start. */
  kill(powerCut = false): void {
    const { agent, oracle, time } = this.#world;
    this.keep?.lifeEnds(() => void (this.#rng.chance(0.7) ? agent.stepNetwork() : agent.stepIo()));
    this.#world.note(powerCut ? 'power cut' : 'kill');
    // Killed in the middle of a start there is no listener yet, and what it was to expect is still expected.
    this.#pinned = this.#world.listener?.pinnedNow() ?? this.#pinned;
    this.#world.listener = undefined;
    this.#startFailed = false;
    if (agent.isReady && this.#world.keepsFiles) time.check(agent.cache.control.chunks({}, { limit: 1000 }).chunks, LONGEST_TTL_MS);
    time.end(agent.life?.tombstones?.clockMs ?? 0);
    // Not by dirtyBytes: an empty value has none.
    oracle.keeping?.endOfProcess(agent.isReady && !agent.cache.control.chunks({}, { limit: 1000 }).chunks.some((chunk) => chunk.dirty));
    if (powerCut) time.powerCut();
    if (powerCut) agent.powerCut();
    else agent.kill();
    oracle.endOfProcess();
    if (powerCut) oracle.powerCut();
    this.operators.forget();
    this.#mischief.betweenLives();
    if (this.#rng.chance(0.5)) agent.disk.data.capacityBytes = Number.MAX_SAFE_INTEGER;
    this.keep?.between();
    if (this.keep === undefined) agent.boot();
    else this.keep.boot();
  }

  /** A stop in its time, whatever devices do, and a start. */
  #stop(): void {
    const { agent } = this.#world;
    if (!agent.isReady) return;
    this.#world.note('stop');
    const deadlineMs = agent.clock.monotonicMs() + this.#rng.pick([0, 1000, 5000]);
    // The journal's device is waited for, and answers.
    agent.stallDisks(0);
    let closed = false;
    agent.life?.server?.close();
    agent.life?.lm?.close();
    agent.life?.native?.close();
    agent.cache.close(deadlineMs).then(
      () => void (closed = true),
      (problem: unknown) => agent.fail(problem),
    );
    for (agent.settle(); !closed; agent.advance(100)) {
      if (agent.clock.monotonicMs() > deadlineMs + STOP_SLACK_MS) throw new Error('A stop waits although its time is over');
      for (let moves = 0; moves < 200 && (agent.stepNetwork() || agent.stepIo() || agent.stepCatalog()); moves += 1);
    }
    this.kill();
  }

  /** The wall clock is set; whoever looks at it sees that it was. */
  #jump(by: () => number): void {
    const { agent, oracle } = this.#world;
    oracle.jump();
    const ms = by();
    oracle.jump();
    agent.life?.cache?.expiryNowMs();
    this.#world.note(`the wall clock jumps by ${ms} ms`);
  }

  /** The clock is ahead for a moment, in which somebody gives a lifetime that comes to the disk, and the process ends: before its next look at the time. */
  #passingJump(): void {
    const { agent, time } = this.#world;
    if (!agent.isReady) return;
    // Ahead of the time of expiries, which may be ahead itself.
    const aheadMs = time.nowMs() - agent.clock.nowMs() + this.#rng.pick([1, 2, 5]) * HOUR_MS;
    this.#jump(() => time.jumpBy(aheadMs));
    const key = this.commands.giveLifetime();
    for (let moves = 0; moves < 100 && (agent.stepNetwork() || agent.stepIo()); moves += 1);
    if (key !== undefined) this.operators.persist(key);
    for (let moves = 0; moves < 100 && (agent.stepIo() || agent.stepNetwork()); moves += 1);
    this.#jump(() => time.jumpBy(-aheadMs));
    this.kill();
  }

  #reset(): void {
    const { clients } = this.#world;
    const client = this.#rng.pick(clients);
    if (client.connection === undefined) return;
    this.#world.note(`reset of ${clients.indexOf(client)}`);
    if (this.#rng.chance(0.7)) client.connection.reset();
    else client.connection.close();
    this.#world.agent.settle();
  }

  /** The end: faults are over, and what they did to this process is left behind. */
  drain(): void {
    this.#mischief.end();
    if ((this.#world.options.faults ?? 0) > 0) {
      // Folders that were turned off come back at a start.
      this.kill();
      this.#mischief.end();
    }
    this.#liveness.drain({
      kill: () => this.kill(),
      lm: this.lm,
      native: this.native,
      pending: () => this.operators.pending,
      removeQuotas: () => this.operators.removeQuotas(),
    });
  }
}
