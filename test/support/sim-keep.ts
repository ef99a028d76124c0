/**
 * RAM that outlives its process, in a simulated world: how lives end and begin then, and what must be there afterwards.
 *
 * A life may end between any two calls to shared memory of its start, and with any part of the stores of its last step to the slot table
 * done. What lies in shared memory may be damaged meanwhile, cut up otherwise, of another boot, or left alone for a run that keeps
 * nothing. Where nothing of that happened, all that was in RAM is in RAM again when the doors open, and its bytes are right: the floor.
 * What may not be there at all is the oracle's to say.
 */
import type { SimRng } from './sim-clock.ts';
import { SimDeath } from './sim-agent.ts';
import type { SimLife } from './sim-agent.ts';
import type { SimWorld } from './sim-world.ts';

/** What was in RAM when a life ended. */
interface Kept {
  readonly name: string;
  readonly expiresAtMs: number;
}

/** Stores are of 8 bytes at most. */
const STORE_BYTES = 8;
const WORD_BYTES = 4;

export class SimKeep {
  readonly #world: SimWorld;
  readonly #rng: SimRng;
  readonly #ramBytes: number;
  /** By generation; undefined: nobody knows what must be there. */
  #kept: Map<number, Kept> | undefined;
  /** What is in shared memory may have wrong bytes: a life that took it over may have to forget what it promised. */
  isDamaged = false;
  /** Chunks that had to be there, over all lives, and lives that began with some. */
  floorChunks = 0;
  floorLives = 0;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
    this.#ramBytes = world.agent.ramBytes;
    world.agent.onReady = (life) => this.#judge(life);
  }

  /** Before a life is killed. `step`: something that the process does, and may not get done with. */
  lifeEnds(step: () => void): void {
    const { agent, quiet } = this.#world;
    const life = agent.life;
    if (life === undefined) return;
    const wrong = this.isDamaged ? undefined : agent.log.find((line) => line.includes('left in RAM has wrong bytes'));
    if (wrong !== undefined) throw new Error(`${wrong}, and nobody has damaged any`);
    // Damage that nobody has looked at yet may be found before the doors open.
    if (!agent.keepsRam || this.isDamaged) this.#kept = undefined;
    else if (life.ready) this.#kept = this.#world.listener?.isInvalidating === true ? undefined : this.#chunks();
    if (!quiet && agent.keepsRam && life.ready && this.#rng.chance(0.25)) this.#tear(step);
  }

  #chunks(): Map<number, Kept> {
    const { chunks } = this.#world.agent.cache.control.chunks({ tier: 'ram' }, { limit: 10_000 });
    return new Map(chunks.map((chunk) => [chunk.generation, { name: chunk.key, expiresAtMs: chunk.expiresAtMs ?? Infinity }]));
  }

  /** A step, of whose stores to the table only some were done. No reply leaves in it: whatever it did may as well not have been. */
  #tear(step: () => void): void {
    const { memory } = this.#world.agent;
    const before = memory.file('table')?.slice();
    step();
    const table = memory.file('table');
    if (before === undefined || table === undefined) return;
    const share = this.#rng.pick([0.1, 0.5, 0.9]);
    let lost = 0;
    for (let at = 0; at < table.length; at += STORE_BYTES) {
      // The first word of a unit is its state, which is stored alone.
      const parts = at % 256 === 0 ? [at, at + WORD_BYTES] : [at];
      for (const part of parts) {
        const end = at + (parts.length > 1 ? part - at + WORD_BYTES : STORE_BYTES);
        if (Buffer.compare(table.subarray(part, end), before.subarray(part, end)) === 0 || !this.#rng.chance(share)) continue;
        table.set(before.subarray(part, end), part);
        lost += 1;
      }
    }
    if (lost === 0) return;
    this.#kept = undefined;
    this.isDamaged = true;
    this.#world.note(`torn: ${lost} stores to the slot table are lost`);
  }

  /** Nobody runs. What the next life finds is not always what the last one left. */
  between(): void {
    const { agent, quiet } = this.#world;
    // The size of before, which is another one again.
    if (agent.ramBytes !== this.#ramBytes) this.#kept = undefined;
    agent.ramBytes = this.#ramBytes;
    agent.keepsRam = true;
    const fate = quiet
      ? 'as it was'
      : this.#rng.weighted({ 'as it was': 10, 'damaged bytes': 1.5, 'another size': 0.5, boot: 0.6, header: 0.4, 'no keep': 1 });
    if (fate === 'damaged bytes') this.isDamaged = true;
    else if (fate === 'another size' || fate === 'boot') this.isDamaged = false;
    if (fate === 'as it was') return;
    this.#world.note(`kept RAM: ${fate}`);
    agent.log.length = 0;
    this.#kept = undefined;
    if (fate === 'damaged bytes') this.#damage();
    else if (fate === 'another size') agent.ramBytes = this.#ramBytes / 2;
    else if (fate === 'boot') agent.changeBootId();
    else if (fate === 'no keep') agent.keepsRam = false;
    else {
      const table = agent.memory.file('table');
      if (table !== undefined) table[this.#rng.below(48)] = this.#rng.below(256);
    }
  }

  /** Bytes of chunks, as far as there are any: what is zero belongs to none. */
  #damage(): void {
    const bytes = this.#world.agent.memory.file('ram-0');
    if (bytes === undefined) return;
    for (let tries = 0; tries < 200; tries += 1) {
      const at = this.#rng.below(bytes.length);
      if (bytes[at] !== 0) bytes[at] = (bytes[at] as number) ^ (1 << this.#rng.below(8));
    }
  }

  /** A start, which may end in the middle: then another one. */
  boot(): void {
    const { agent, quiet } = this.#world;
    if (!quiet && this.#rng.chance(0.2)) {
      let calls = this.#rng.below(12);
      agent.memory.onCall = () => {
        if (calls-- === 0) throw new SimDeath();
      };
      agent.boot();
      agent.memory.onCall = undefined;
      if (agent.life !== undefined) return;
      this.#world.note('kill in the middle of a start');
    }
    agent.boot();
  }

  #judge(life: SimLife): void {
    const kept = this.#kept;
    this.#kept = undefined;
    if (kept === undefined || kept.size === 0) return;
    const now = this.#world.agent.clock.nowMs();
    const found = new Set(this.#chunks().keys());
    for (const [generation, { name, expiresAtMs }] of kept) {
      if (found.has(generation) || expiresAtMs <= now) continue;
      throw new Error(
        `${name} was in RAM when the process was killed, and is not there after it: ${life.ram.keeps ? 'its record is gone' : 'nothing is kept'}`,
      );
    }
    this.floorLives += 1;
    this.floorChunks += kept.size;
  }
}
