/** What the cache model does with HBM: orders, exports that another process reads, copies that fail, devices that are lost. */
import type { DeviceRead } from '#cache/door.ts';
import type { Key, Value } from './cache-model-parts.ts';
import type { SimCache } from './sim-cache.ts';

interface Exported {
  readonly key: Key;
  readonly value: Value;
  readonly read: DeviceRead;
  /** Copied at some moment between the opening and the release. */
  bytes: Buffer | undefined;
}

export const hbmActions = {
  hbmPrefetch: 6,
  hbmEvict: 1.5,
  ramEvict: 5,
  export: 4,
  copyExport: 4,
  releaseExport: 4,
  deviceFault: 2,
  loseDevice: 0.1,
};
export type HbmAction = keyof typeof hbmActions;

export const noHbmActions = {
  hbmPrefetch: 0,
  hbmEvict: 0,
  ramEvict: 0,
  export: 0,
  copyExport: 0,
  releaseExport: 0,
  deviceFault: 0,
  loseDevice: 0,
} satisfies Record<HbmAction, number>;

export class HbmModel {
  readonly #sim: SimCache;
  readonly #payload: (value: Value) => Buffer;
  readonly #exports: Exported[] = [];
  /** Exports that held, and those that did not. */
  held = 0;
  broken = 0;
  /** Bytes of devices went bad: an export gives what is there, and nobody looks at its checksum. */
  #rots = false;

  constructor(sim: SimCache, payload: (value: Value) => Buffer) {
    this.#sim = sim;
    this.#payload = payload;
  }

  /** Opens what HBM has of a key. True where it did. */
  open(key: Key): boolean {
    const found = this.#sim.peek(key.name);
    const value = key.current;
    if (found === undefined || this.#exports.length > 4) return false;
    const read = this.#sim.cache.openDevice(found.ref);
    if (read === undefined) return false;
    if (value === undefined) throw new Error(`${key.name} should be gone and is exported`);
    if (read.sizeBytes !== value.sizeBytes) throw new Error(`${key.name} has ${value.sizeBytes} bytes, its export ${read.sizeBytes}`);
    this.#exports.push({ key, value, read, bytes: undefined });
    return true;
  }

  copy(): void {
    if (this.#exports.length === 0) return;
    const own = this.#sim.rng.pick(this.#exports);
    own.bytes = this.#bytesOf(own);
  }

  #bytesOf({ read }: Exported): Buffer {
    const piece = this.#sim.life.hbm.devices.exported(read.handle);
    return Buffer.from(piece.slice(read.offsetBytes, read.offsetBytes + read.sizeBytes));
  }

  /** Whoever hears that it held has the bytes of the value, which was the key's until now. `mayBeGone`: expiries, which nobody announces. */
  release(): void {
    const own = this.#exports.splice(this.#sim.rng.below(this.#exports.length), 1)[0];
    if (own === undefined) return;
    const { key, value, read, bytes } = own;
    // Also what was taken away stays where it is as long as somebody may copy it; a device that is lost keeps nothing.
    const isLost = this.#sim.life.hbm.devices.opened.some((device) => device.facts.uuid === read.deviceUuid && device.lost !== undefined);
    if (!isLost && !this.#rots && !this.#bytesOf(own).equals(this.#payload(value)))
      throw new Error(`The slot of the export of ${key.name} was used again`);
    if (!read.release()) {
      this.broken += 1;
      return;
    }
    this.held += 1;
    if (key.current !== value) throw new Error(`The export of ${key.name} held, although its chunk was taken away`);
    if (bytes !== undefined && !this.#rots && !bytes.equals(this.#payload(value)))
      throw new Error(`The export of ${key.name} held, with wrong bytes`);
  }

  releaseAll(): void {
    while (this.#exports.length > 0) this.release();
  }

  fault(): string {
    const { rng, life } = this.#sim;
    const late = rng.chance(0.5);
    life.hbm.devices.faults.push({ call: 'copy', late });
    return `a copy will fail${late ? ' late' : ''}`;
  }

  /** Bytes of a device go bad where faults are allowed: the cache must see it. */
  rot(): string {
    const { rng, life, cache } = this.#sim;
    const found = cache.control.chunks({ tier: 'hbm' }, { limit: 1000 }).chunks;
    if (found.length === 0 || life.hbm.devices.activeCount > 0 || this.#exports.length > 0) return 'nothing rots';
    const chunk = rng.pick(found);
    const [entry, generation] = chunk.id.split('-').map(Number);
    const read = cache.openDevice({ entry: entry ?? -1, generation: generation ?? 0 });
    if (read === undefined) return 'nothing rots';
    this.#rots = true;
    if (read.sizeBytes > 0) {
      const at = read.offsetBytes + rng.below(read.sizeBytes);
      const piece = life.hbm.devices.exported(read.handle);
      piece[at] = (piece[at] ?? 0) ^ 1;
    }
    read.release();
    return `${chunk.key} rots in HBM`;
  }

  lose(): string {
    const { rng, life } = this.#sim;
    const { opened } = life.hbm.devices;
    if (opened.length === 0) return 'no device is left';
    const device = rng.pick(opened);
    device.lose(rng.pick([700, 214]));
    return `device ${device.facts.ordinal} is lost`;
  }

  crashed(): void {
    this.#exports.length = 0;
  }
}
