/**
 * A simulated machine with an agent, clients, operators and bad luck, all out of one seed; beside it the oracle.
 *
 * A run is a number of steps, each one choice of what happens next: bytes move, a disk job goes on, a client sends a command, time
 * passes, the process is killed. After every step the invariants of every stateful part are checked. At the end faults stop, and
 * everything must drain: no dirty byte, no slot without a chunk, no lease, no transfer, no job, nothing queued.
 */
import { tenantOfCredential } from '#core/namespace.ts';
import type { SimAgentOptions } from './sim-agent.ts';
import { SimAgent } from './sim-agent.ts';
import { engineKey } from './lm-client.ts';
import { SimClient } from './sim-client.ts';
import { countsOf, SimKeeping } from './sim-keeping.ts';
import { NATIVE_KEYS, nativeKey } from './sim-native-commands.ts';
import type { SimListener } from './sim-listener.ts';
import type { SimFaultKind } from './sim-mischief.ts';
import { SimOracle } from './sim-oracle.ts';
import type { SimKey, SimSpan } from './sim-oracle.ts';
import { SimTime } from './sim-time.ts';
import { SimWorkload } from './sim-workload.ts';

export interface SimWorldOptions extends SimAgentOptions {
  readonly steps: number;
  readonly clientCount?: number;
  /** Of each tenant. */
  readonly keyCount?: number;
  /** Of values; around every threshold of the door by default. */
  readonly sizes?: readonly number[];
  /** Kills, a thousand steps. */
  readonly kills?: number;
  /** Connections that are reset, a thousand steps. */
  readonly resets?: number;
  /** Peers and disks that stand still for a while, a thousand steps. */
  readonly delays?: number;
  /** Failures of devices, files that rot, full disks, a thousand steps. */
  readonly faults?: number;
  /** Which ones; all by default. */
  readonly faultKinds?: readonly SimFaultKind[];
  /** Devices that do not answer for a while, a thousand steps. */
  readonly hangs?: number;
  /** Stops as with SIGTERM, a thousand steps. */
  readonly stops?: number;
  /** Jumps of the wall clock, a thousand steps. */
  readonly jumps?: number;
  /** Copies of devices that fail, and devices that are lost, a thousand steps. */
  readonly deviceFaults?: number;
  /** Power cuts, a thousand steps. */
  readonly powerCuts?: number;
  /** Every miss of what was acknowledged is explained by a counter. */
  readonly counted?: boolean;
  /** Invariants are checked every so many steps. */
  readonly checkEvery?: number;
  /** Lines of the trace that are kept for a failure. */
  readonly traceLines?: number;
}

export interface SimReport {
  readonly seed: number;
  readonly steps: number;
  /** Of everything that happened, in order: equal for equal runs. */
  readonly eventHash: string;
  readonly reads: number;
  readonly hits: number;
  readonly lives: number;
  readonly commands: number;
}

/** A run that found something: the step at which it was seen, the seed, the last events. */
export class SimFailure extends Error {
  override readonly name = 'SimFailure';
  readonly seed: number;
  readonly step: number;

  constructor(world: { readonly seed: number; readonly step: number; readonly trace: readonly string[] }, problem: unknown) {
    const text = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
    super(`Seed ${world.seed}, step ${world.step}: ${text}\n  ${world.trace.join('\n  ')}`, { cause: problem });
    this.seed = world.seed;
    this.step = world.step;
  }
}

/** Steps between two looks at the event loop, where rejections that nobody handled are told. */
const TURN_STEPS = 256;

export class SimWorld {
  readonly agent: SimAgent;
  readonly oracle: SimOracle;
  readonly time: SimTime;
  readonly clients: SimClient[];
  readonly options: SimWorldOptions;
  readonly trace: string[] = [];
  /** In the cache of the life of the moment. */
  listener: SimListener | undefined;
  readonly #keys = new Map<string | undefined, readonly SimKey[]>();
  readonly #workload: SimWorkload;
  #eventHash = 0n;
  step = 0;
  /** Faults are over: what is left must drain. */
  quiet = false;

  constructor(options: SimWorldOptions) {
    this.options = options;
    this.agent = new SimAgent(options);
    this.time = new SimTime(this.agent.clock);
    this.oracle = new SimOracle(
      () => this.time.nowMs(),
      () => this.agent.clock.nowMs(),
    );
    if (options.counted === true)
      this.oracle.keeping = new SimKeeping(() => (this.agent.isReady ? countsOf(this.agent.cache.control.stats()) : undefined));
    const count = options.clientCount ?? 4;
    for (const who of this.everybody) {
      const tenant = who === 'admin' ? undefined : who;
      this.#keys.set(
        who,
        this.#keyNames().map((name) => this.oracle.key(name, tenant)),
      );
    }
    // Two sockets an address, as LMCache's workers have several: leases and inference belong to the address, the user and the tenant.
    this.clients = Array.from({ length: count }, (_, index) => {
      const who = this.everybody[index % this.everybody.length];
      return new SimClient(this.agent.network, `10.0.0.${1 + Math.floor(index / 2 / this.everybody.length)}`, who);
    });
    this.#workload = new SimWorkload(this);
  }

  #keyNames(): string[] {
    const { keyCount = 24, lm, native } = this.options;
    const names = Array.from({ length: keyCount }, (_, index) => keyName(index));
    if (native === true) names.push(...Array.from({ length: NATIVE_KEYS }, (_, index) => nativeKey(index)));
    return lm === true ? [...names, ...Array.from({ length: LM_KEYS }, (_, index) => engineKey(index, 'model-b'))] : names;
  }

  /** Those that the lm door takes; it has no tenants. */
  get lmKeys(): readonly SimKey[] {
    return this.keysOf(undefined).slice(-LM_KEYS);
  }

  /** Those who have a token: the admin and the tenants; without tokens nobody in particular. */
  get everybody(): readonly (string | undefined)[] {
    const { tenants } = this.options;
    return tenants === undefined ? [undefined] : ['admin', ...tenants];
  }

  someone(): string | undefined {
    return this.agent.rng.pick(this.everybody.map((who) => ({ who }))).who;
  }

  /** As a namespace says it; undefined for those who see everything. */
  tenantOf(who: string | undefined): string | undefined {
    return who === undefined || who === 'admin' ? undefined : tenantOfCredential(who);
  }

  keysOf(who: string | undefined): readonly SimKey[] {
    return this.#keys.get(who) ?? this.#keys.get('admin') ?? [];
  }

  /** One of those that somebody uses. */
  key(who: string | undefined): SimKey {
    return this.agent.rng.pick(this.keysOf(who));
  }

  /** True where a listing that somebody asked for since `span` began may name the key. */
  mayList(name: string, who: string | undefined, span: SimSpan): boolean {
    const owners = this.tenantOf(who) === undefined ? this.everybody : [who];
    return owners.some((owner) => this.keysOf(owner).some((key) => key.name === name && this.oracle.mayExist(key, span)));
  }

  /** Devices keep what they were given: nothing breaks, no power is cut. Only then leases and cleanness are promised. */
  get keepsFiles(): boolean {
    return (this.options.faults ?? 0) + (this.options.powerCuts ?? 0) === 0;
  }

  get seed(): number {
    return this.options.seed;
  }

  note(text: string): void {
    this.#eventHash = Bun.hash.xxHash3(text, this.#eventHash);
    this.trace.push(`${this.step}: ${text}`);
    if (this.trace.length > (this.options.traceLines ?? 60)) this.trace.shift();
  }

  /** Runs all steps and the quiet end. Throws SimFailure. */
  static async run(options: SimWorldOptions): Promise<SimReport> {
    const world = new SimWorld(options);
    const rejected = (problem: unknown): void => world.agent.fail(problem);
    process.on('unhandledRejection', rejected);
    // Thrown by what queueMicrotask runs: it would end the process without a word of the seed.
    process.on('uncaughtException', rejected);
    try {
      world.agent.boot();
      while (world.step < options.steps) {
        world.#steps(Math.min(TURN_STEPS, options.steps - world.step));
        await turn();
      }
      world.quiet = true;
      world.#drain();
      await turn();
      world.#judge();
    } catch (problem) {
      throw new SimFailure(world, problem);
    } finally {
      process.off('unhandledRejection', rejected);
      process.off('uncaughtException', rejected);
    }
    return world.report();
  }

  report(): SimReport {
    const { oracle, agent } = this;
    const hash = Bun.hash.xxHash3(String(agent.rng.fingerprint), this.#eventHash);
    return {
      seed: this.seed,
      steps: this.step,
      eventHash: hash.toString(16).padStart(16, '0'),
      reads: oracle.reads,
      hits: oracle.hits,
      lives: agent.lives,
      commands: this.#workload.commands.count,
    };
  }

  #steps(count: number): void {
    for (let index = 0; index < count; index += 1) {
      this.step += 1;
      this.#workload.one();
      // Whoever looks for a chunk may find it expired, and then the agent writes.
      this.#workload.alive(() => this.#judge());
    }
  }

  #judge(): void {
    if (this.agent.problem !== undefined) throw this.agent.problem;
    if (this.step % (this.options.checkEvery ?? 1) === 0) this.agent.checkInvariants();
    if (this.step % (this.options.checkEvery ?? 1) === 0) this.#workload.native?.checkInvariants();
    this.listener?.check();
    const wrong = this.agent.life?.ssd.checksumMismatches ?? 0;
    if (this.keepsFiles && wrong > 0) throw new Error(`${wrong} files are wrong or cannot be read, and devices keep what they are given`);
  }

  #drain(): void {
    this.note('quiet');
    this.#workload.drain();
    this.#judge();
  }
}

const LM_KEYS = 8;
const HASH = 'a1b2c3d4e5f60718';

/** Keys of several namespaces: two models, a salted tenant, an opaque one. Equal hashes in all of them. */
function keyName(index: number): string {
  const hash = `${HASH}${(index >> 2).toString(16).padStart(16, '0')}`;
  if (index % 4 === 0) return `opaque-${index}`;
  if (index % 4 === 1) return `model-a@00000001@${hash}@0`;
  if (index % 4 === 2) return `model-b@00000001@${hash}@0`;
  return `model-a@00000001@${hash}@0@salt`;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
