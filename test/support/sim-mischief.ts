/** What goes wrong in a simulated world: jobs that fail, devices that lie, files that rot, disks that are full, peers that stall. */
import { KiB } from '#core/bytes.ts';
import type { SimRng } from './sim-clock.ts';
import type { SimWorld } from './sim-world.ts';

const jobs = ['write', 'read', 'unlink', 'rename', 'headers'] as const;
const lies = ['torn', 'flip', 'misdirected'] as const;
const rot = ['flip', 'truncate', 'delete', 'swap'] as const;
const EIO = 5;
const EMFILE = 24;
const ENOSPC = 28;

const kinds = [...jobs, ...lies, ...rot, 'journal', 'space', 'dataSpace', 'lock', 'catalog'] as const;
export type SimFaultKind = (typeof kinds)[number];

export class SimMischief {
  readonly #world: SimWorld;
  readonly #rng: SimRng;

  /** Bits of the catalog's file flip before the next start. */
  #rotsCatalog = false;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
  }

  /** Peers that are slow, and a disk that stands still for a while: nobody may lose anything by that. */
  delay(): void {
    const { agent } = this.#world;
    const connections = [...agent.network.connections];
    if (connections.length > 0 && this.#rng.chance(0.7)) {
      agent.network.stall(this.#rng.pick(connections), 20 + this.#rng.below(400));
      return;
    }
    agent.stallDisks(this.#rng.pick([10, 100, 1000, 8000]));
  }

  /** A device does not answer any more, or not all that it is asked. */
  hang(): void {
    const { agent, options } = this.#world;
    const { pathStart, kind, untilMs } = agent.hangs.begin(this.#rng, agent.disk, options.ssdBytes?.length ?? 1);
    this.#world.note(`${pathStart} hangs${kind === undefined ? '' : ` in each ${kind}`} for ${untilMs - agent.clock.monotonicMs()} ms`);
    agent.life?.io.watch();
  }

  /** A copy fails, at once or late, or a device is lost with all that is in it. */
  deviceFault(): void {
    const said = this.#world.agent.life?.hbm.fault(this.#rng);
    if (said !== undefined) this.#world.note(said);
    this.#world.agent.settle();
  }

  /** Something breaks. */
  fault(): void {
    const { agent } = this.#world;
    const { disk } = agent;
    const kind = this.#rng.pick(this.#world.options.faultKinds ?? kinds);
    this.#world.note(`fault ${kind}`);
    if (kind === 'journal') {
      const partialBytes = this.#rng.below(100);
      disk.data.failNext(this.#rng.pick(['append', 'sync', 'truncate', 'rename', 'syncFolder'] as const), EIO, { partialBytes });
    } else if (kind === 'space') disk.deviceBytes.set('ssd0', this.#rng.chance(0.5) ? 2 ** 40 : 200 * KiB);
    else if (kind === 'dataSpace') disk.data.capacityBytes = this.#rng.chance(0.7) ? Number.MAX_SAFE_INTEGER : 4 * KiB;
    else if (kind === 'lock') {
      agent.catalogDisk.locked = this.#rng.chance(0.5);
    } else if (kind === 'catalog') {
      const code = this.#rng.pick(['SQLITE_FULL', 'SQLITE_IOERR_WRITE', 'SQLITE_CORRUPT', 'lost', 'rot'] as const);
      if (code === 'rot') this.#rotsCatalog = true;
      else if (code === 'lost') agent.life?.catalogWorker.lose();
      else agent.catalogDisk.failures.push(code);
    } else if ((rot as readonly string[]).includes(kind) && (kind !== 'flip' || this.#rng.chance(0.5))) this.#rot(kind);
    else if ((lies as readonly string[]).includes(kind)) {
      agent.life?.io.faults.push({ kind: this.#rng.pick(['write', 'read'] as const), errno: 0, lie: kind as (typeof lies)[number] });
    } else agent.life?.io.faults.push({ kind: kind as (typeof jobs)[number], errno: this.#rng.pick([EIO, EIO, EIO, EMFILE, ENOSPC]) });
  }

  #rot(kind: string): void {
    const { disk } = this.#world.agent;
    const files = disk.filesBelow('').filter((path) => /\/[0-9a-f]{2}\/[0-9a-f]{16}\.kv$/.test(path));
    if (files.length === 0) return;
    const path = this.#rng.pick(files);
    const bytes = disk.file(path) ?? new Uint8Array(1);
    if (kind === 'delete') disk.unlink(path);
    else if (kind === 'truncate') disk.put(path, bytes.slice(0, this.#rng.below(bytes.length)));
    else if (kind === 'swap') disk.put(path, disk.file(this.#rng.pick(files)) ?? bytes);
    else {
      const flipped = bytes.slice();
      const at = this.#rng.below(flipped.length);
      flipped[at] = (flipped[at] ?? 0) ^ (1 << this.#rng.below(8));
      disk.put(path, flipped);
    }
  }

  /** Nobody has the files open. */
  betweenLives(): void {
    if (this.#rotsCatalog) this.#world.agent.catalogDisk.rot(this.#rng);
    this.#rotsCatalog = false;
  }

  /** The device has what it promised, disks have room, nobody holds a lock; peers and disks move. */
  end(): void {
    const { agent } = this.#world;
    for (const connection of agent.network.connections) connection.stalledUntil = 0;
    agent.stallDisks(0);
    agent.hangs.end();
    agent.disk.deviceBytes.clear();
    agent.disk.data.capacityBytes = Number.MAX_SAFE_INTEGER;
    agent.disk.data.clearFailures();
    agent.disk.data.clearStops();
    agent.catalogDisk.locked = false;
    agent.catalogDisk.failures.length = 0;
    if (agent.life !== undefined) {
      agent.life.io.faults.length = 0;
      agent.life.hbm.devices.faults.length = 0;
    }
  }
}
