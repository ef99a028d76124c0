/**
 * One machine's disks: a SimFileSystem for the data directory (journal), and SSD folders with chunk files. Both survive a kill with
 * all that was written, synced or not. Everything under `/ssd` is an SSD folder; the first part of the path is the device.
 */
import { ioFailed } from '#core/errors.ts';
import type { AppendFile, FileSystem } from '#ports/file-system.ts';
import { SimFileSystem } from './sim-file-system.ts';

const ENOENT = 2;

type Node = Uint8Array | Map<string, Node>;

export class SimDisk implements FileSystem {
  readonly data = new SimFileSystem();
  /** Size of each SSD device, by its name (`ssd0`); without an entry it is endless. */
  readonly deviceBytes = new Map<string, number>();
  #root = new Map<string, Node>();

  constructor() {
    this.data.mkdir('/data');
  }

  #isSsd(path: string): boolean {
    return path.startsWith('/ssd');
  }

  #node(path: string): Node | undefined {
    let node: Node | undefined = this.#root;
    for (const part of path.split('/')) {
      if (part === '') continue;
      if (!(node instanceof Map)) return undefined;
      node = node.get(part);
    }
    return node;
  }

  #parent(path: string): { folder: Map<string, Node> | undefined; name: string } {
    const slash = path.lastIndexOf('/');
    const folder = this.#node(path.slice(0, slash));
    return { folder: folder instanceof Map ? folder : undefined, name: path.slice(slash + 1) };
  }

  // --- power ----------------------------------------------------------------------------------------------------------------

  /** Files that got their name since the last power cut or their own sync. */
  readonly #unsynced = new Set<string>();
  /** Names that went since the last power cut: the device may not have heard of it. */
  readonly #unlinked = new Map<string, Uint8Array>();

  /** The bytes and the name of a file are on the device. */
  synced(path: string): void {
    this.#unsynced.delete(path);
    this.#unlinked.delete(path);
  }

  /**
   * The machine loses power: of each chunk file that was not synced `torn` says what is left (undefined: not even its name), and
   * names that went come back where `returns` says so. Then everything is on the device. The data directory has its own cut.
   */
  powerCut(cut: { readonly torn: (bytes: Uint8Array) => Uint8Array | undefined; readonly returns: () => boolean }): void {
    for (const path of this.#unsynced) {
      const bytes = this.file(path);
      if (bytes === undefined) continue;
      const left = cut.torn(bytes);
      if (left === undefined) this.#remove(path);
      else this.put(path, left);
    }
    for (const [path, bytes] of this.#unlinked) if (!this.exists(path) && cut.returns()) this.put(path, bytes);
    this.#unsynced.clear();
    this.#unlinked.clear();
  }

  // --- chunk files, for SimFileIo -------------------------------------------------------------------------------------------

  /** False where the folder does not exist. */
  put(path: string, bytes: Uint8Array): boolean {
    const { folder, name } = this.#parent(path);
    folder?.set(name, bytes);
    return folder !== undefined;
  }

  file(path: string): Uint8Array | undefined {
    const node = this.#node(path);
    return node instanceof Uint8Array ? node : undefined;
  }

  names(path: string): string[] | undefined {
    const node = this.#node(path);
    return node instanceof Map ? [...node.keys()].sort() : undefined;
  }

  unlink(path: string): boolean {
    const bytes = this.file(path);
    if (bytes !== undefined && !this.#unsynced.has(path) && path.endsWith('.kv')) {
      this.#unlinked.set(path, bytes);
      // A cut long after does not bring it back: devices are not that slow.
      if (this.#unlinked.size > 64) for (const oldest of this.#unlinked.keys()) if (this.#unlinked.delete(oldest)) break;
    }
    return this.#remove(path);
  }

  #remove(path: string): boolean {
    this.#unsynced.delete(path);
    const { folder, name } = this.#parent(path);
    return folder?.delete(name) ?? false;
  }

  move(from: string, to: string): boolean {
    const source = this.#parent(from);
    const target = this.#parent(to);
    const node = source.folder?.get(source.name);
    if (node === undefined || target.folder === undefined) return false;
    source.folder?.delete(source.name);
    target.folder.set(target.name, node);
    this.#unsynced.delete(from);
    if (node instanceof Uint8Array) this.#unsynced.add(to);
    return true;
  }

  freeBytes(path: string): number {
    const device = path.split('/')[1] ?? '';
    return (this.deviceBytes.get(device) ?? 2 ** 45) - sizeOf(this.#root.get(device));
  }

  /** Paths of all files below a folder. */
  filesBelow(path: string): string[] {
    const node = this.#node(path);
    if (!(node instanceof Map)) return [];
    return [...node].flatMap(([name, child]) => (child instanceof Map ? this.filesBelow(`${path}/${name}`) : [`${path}/${name}`]));
  }

  // --- FileSystem -----------------------------------------------------------------------------------------------------------

  readFile(path: string): Uint8Array | undefined {
    return this.#isSsd(path) ? this.file(path)?.slice() : this.data.readFile(path);
  }

  writeFileAtomic(path: string, bytes: Uint8Array): void {
    if (!this.#isSsd(path)) return this.data.writeFileAtomic(path, bytes);
    if (bytes.length > this.freeBytes(path)) throw ioFailed(`Cannot write ${path}`, 28, { path });
    if (!this.put(path, bytes.slice())) throw ioFailed(`Cannot write ${path}`, ENOENT, { path });
  }

  openAppend(path: string): AppendFile {
    return this.data.openAppend(path);
  }

  mkdir(path: string): void {
    if (!this.#isSsd(path)) return this.data.mkdir(path);
    let node = this.#root;
    for (const part of path.split('/')) {
      if (part === '') continue;
      let child = node.get(part);
      if (child === undefined) node.set(part, (child = new Map<string, Node>()));
      if (!(child instanceof Map)) throw ioFailed(`Cannot create folder ${path}`, 20, { path });
      node = child;
    }
  }

  list(path: string): string[] {
    if (!this.#isSsd(path)) return this.data.list(path);
    const names = this.names(path);
    if (names === undefined) throw ioFailed(`Cannot list ${path}`, ENOENT, { path });
    return names;
  }

  exists(path: string): boolean {
    return this.#isSsd(path) ? this.#node(path) !== undefined : this.data.exists(path);
  }

  remove(path: string): void {
    if (this.#isSsd(path)) this.unlink(path);
    else this.data.remove(path);
  }

  rename(from: string, to: string): void {
    if (!this.#isSsd(from)) return this.data.rename(from, to);
    if (!this.move(from, to)) throw ioFailed(`Cannot rename ${from}`, ENOENT, { path: from });
  }

  sizeBytes(path: string): number | undefined {
    return this.#isSsd(path) ? this.file(path)?.length : this.data.sizeBytes(path);
  }

  statFs(path: string): { totalBytes: number; freeBytes: number } {
    if (!this.#isSsd(path)) return this.data.statFs(path);
    if (this.#node(path) === undefined) throw ioFailed(`Cannot stat file system of ${path}`, ENOENT, { path });
    const free = Math.max(0, this.freeBytes(path));
    return { totalBytes: free + sizeOf(this.#root.get(path.split('/')[1] ?? '')), freeBytes: free };
  }

  lock(path: string): { release(): void } | undefined {
    return this.data.lock(path);
  }
}

function sizeOf(node: Node | undefined): number {
  if (node === undefined) return 0;
  if (!(node instanceof Map)) return node.length;
  let sum = 0;
  for (const child of node.values()) sum += sizeOf(child);
  return sum;
}
