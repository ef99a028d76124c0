/**
 * The simulated twin of DeviceMemory: devices with bytes, copies that complete when somebody steps them: a test, or the event loop of an
 * agent that has neither card nor emulator (open-simulated-memory.ts). Copies of one batch happen in order, those of different batches in
 * any; bytes move at completion and not before, and the target of a copy under way holds garbage.
 *
 * What a driver punishes is a violation: memory that is freed, out of bounds or two copies' own, a source that changed or a host arena
 * that went while a copy was under way, a double free. Violations fail whoever calls `check`; nothing is thrown into the caller.
 *
 * Longer than 300 lines: a device and its memory know each other, and neither is of use alone.
 */
import type { Address, DevicePtr } from '#core/brand.ts';
import type { CopyDone, Device, DeviceCopy, DeviceFacts, DeviceFailure, DeviceMemory } from '#ports/device-memory.ts';

/** Which copy goes on. */
export interface Lot {
  /** Of a list that is not empty. */
  pick<T>(items: readonly T[]): T;
  chance(probability: number): boolean;
}

export type SimDeviceCall = 'open' | 'memory' | 'allocate' | 'free' | 'copy' | 'exportHandle' | 'openHandle' | 'registerHost';

/** A call that will fail. `late`: only of a copy, whose bytes move all the same, some steps after its failure was told. */
export interface SimDeviceFault {
  readonly call: SimDeviceCall;
  readonly code?: number;
  readonly late?: boolean;
}

interface Allocation {
  readonly pointer: number;
  readonly bytes: Uint8Array;
  free: boolean;
}

interface Batch {
  readonly copies: readonly DeviceCopy[];
  /** Of the sources, as they were at submission. */
  readonly sums: readonly (number | bigint | undefined)[];
  readonly submittedAtMs: number;
  next: number;
  readonly fails: boolean;
  told: boolean;
  readonly settle: (outcome: CopyDone | DeviceFailure) => void;
  settleLate: ((done: boolean) => void) | undefined;
}

export interface SimDeviceOptions {
  /** Bytes of each device. */
  readonly deviceBytes: readonly number[];
  /** Host memory as an engine of the device sees it; throws where nothing is mapped. */
  readonly host: (address: number, sizeBytes: number) => Uint8Array;
  /** Handles of all processes of the machine, so that two instances can be two processes. */
  readonly handles?: Map<string, { readonly owner: SimDeviceMemory; readonly allocation: Uint8Array }> | undefined;
  /** False: a real process, whose memory no other one can open. */
  readonly exports?: boolean;
  /** Memory of a device; throws a RangeError where there is none. Left out: filled with garbage, so that nobody takes it for zeroes. */
  readonly allocate?: (sizeBytes: number) => Uint8Array;
  /** Left out: no time passes, and a copy takes as long as it says in COPY_MS. */
  readonly monotonicMs?: () => number;
  /** A copy was submitted: somebody must step. */
  readonly onWork?: () => void;
  readonly note?: string;
}

const GAP_BYTES = 2 ** 20;
const FIRST_POINTER = 2 ** 46;
const OUT_OF_MEMORY = 2;
const INVALID_VALUE = 1;
const NOT_SUPPORTED = 801;
/** Where no time passes. */
const COPY_MS = 0.01;
const REGISTER_MS = 1;
const ILLEGAL_ADDRESS = 700;
const names: Readonly<Record<number, string>> = {
  1: 'CUDA_ERROR_INVALID_VALUE',
  2: 'CUDA_ERROR_OUT_OF_MEMORY',
  214: 'CUDA_ERROR_ECC_UNCORRECTABLE',
  700: 'CUDA_ERROR_ILLEGAL_ADDRESS',
  801: 'CUDA_ERROR_NOT_SUPPORTED',
};

export function simFailure(code: number, call: string, lost = false): DeviceFailure {
  const name = names[code] ?? `CUDA_ERROR_${code}`;
  return { ok: false, code, name, message: `${call} answered ${name}`, lost };
}

export class SimDevice implements Device {
  readonly facts: DeviceFacts;
  lost: DeviceFailure | undefined;
  onLost: (failure: DeviceFailure) => void = () => {};
  readonly #memory: SimDeviceMemory;
  readonly #allocations: Allocation[] = [];
  #batches: Batch[] = [];
  #nextPointer: number;
  closed = false;
  pageableCopies = 0;

  constructor(memory: SimDeviceMemory, facts: DeviceFacts) {
    this.#memory = memory;
    this.facts = facts;
    this.#nextPointer = FIRST_POINTER * (facts.ordinal + 1);
  }

  get copiesInFlight(): number {
    return this.#batches.filter((batch) => !batch.told).length;
  }

  /** Copies that are not done, those included whose failure was told already. */
  get pendingCount(): number {
    return this.#batches.length;
  }

  get usedBytes(): number {
    return this.#allocations.reduce((sum, { free, bytes }) => sum + (free ? 0 : bytes.length), 0);
  }

  memory(): ReturnType<Device['memory']> {
    const failure = this.#failure('memory');
    if (failure !== undefined) return failure;
    return { ok: true, freeBytes: this.facts.totalBytes - this.usedBytes, totalBytes: this.facts.totalBytes };
  }

  #failure(call: SimDeviceCall): DeviceFailure | undefined {
    if (this.closed) this.#memory.violate(`${call} on device ${this.facts.ordinal}, which was closed`);
    if (this.lost !== undefined) return this.lost;
    const fault = this.#memory.takeFault(call);
    return fault === undefined ? undefined : simFailure(fault.code ?? INVALID_VALUE, call);
  }

  allocate(sizeBytes: number): ReturnType<Device['allocate']> {
    const failure = this.#failure('allocate');
    if (failure !== undefined) return failure;
    if (sizeBytes <= 0 || this.usedBytes + sizeBytes > this.facts.totalBytes) return simFailure(OUT_OF_MEMORY, `cuMemAlloc(${sizeBytes})`);
    const bytes = this.#memory.bytesOf(sizeBytes);
    if (bytes === undefined) return simFailure(OUT_OF_MEMORY, `cuMemAlloc(${sizeBytes})`);
    const allocation = { pointer: this.#nextPointer, bytes, free: false };
    this.#nextPointer += Math.ceil(sizeBytes / GAP_BYTES) * GAP_BYTES + GAP_BYTES;
    this.#allocations.push(allocation);
    return { ok: true, pointer: allocation.pointer as DevicePtr };
  }

  free(pointer: DevicePtr): ReturnType<Device['free']> {
    const allocation = this.#allocations.find((candidate) => candidate.pointer === pointer);
    if (allocation === undefined || allocation.free) {
      this.#memory.violate(`free of ${pointer}, which is no allocation`);
      return simFailure(INVALID_VALUE, 'cuMemFree');
    }
    const end = allocation.pointer + allocation.bytes.length;
    if (this.#ranges().some((range) => range.device && range.start < end && allocation.pointer < range.end))
      this.#memory.violate(`free of ${pointer} while a copy is under way`);
    const failure = this.#failure('free');
    if (failure !== undefined && !failure.lost) return failure;
    allocation.free = true;
    return failure ?? { ok: true };
  }

  /** What is at a device address, as a kernel on the device sees it. Throws where nothing is allocated. */
  at(pointer: number, sizeBytes: number): Uint8Array {
    for (const { pointer: start, bytes, free } of this.#allocations) {
      const offset = pointer - start;
      if (free || offset < 0 || offset + sizeBytes > bytes.length) continue;
      return bytes.subarray(offset, offset + sizeBytes);
    }
    throw new RangeError(`device ${this.facts.ordinal}: ${sizeBytes} bytes at ${pointer} are not allocated`);
  }

  /** The allocation that begins there. */
  allocation(pointer: number): Uint8Array | undefined {
    return this.#allocations.find((candidate) => candidate.pointer === pointer && !candidate.free)?.bytes;
  }

  #side(copy: DeviceCopy, end: 'from' | 'to'): Uint8Array | undefined {
    const isDevice = copy.direction === 'on-device' || (copy.direction === 'to-device') === (end === 'to');
    try {
      return isDevice ? this.at(copy[end], copy.sizeBytes) : this.#memory.hostAt(copy[end], copy.sizeBytes);
    } catch (problem) {
      this.#memory.violate(`${copy.direction} ${end}: ${problem instanceof Error ? problem.message : String(problem)}`);
      return undefined;
    }
  }

  #ranges(): { readonly device: boolean; readonly writes: boolean; readonly start: number; readonly end: number }[] {
    return this.#batches.flatMap((batch) => batch.copies.slice(batch.next).flatMap(rangesOf));
  }

  copy(copies: readonly DeviceCopy[]): Promise<CopyDone | DeviceFailure> {
    if (copies.length === 0) this.#memory.violate('a copy of nothing');
    if (this.closed) this.#memory.violate(`copy on device ${this.facts.ordinal}, which was closed`);
    if (this.lost !== undefined) return Promise.resolve(this.lost);
    const fault = this.#memory.takeFault('copy');
    if (fault !== undefined && fault.late !== true) return Promise.resolve(simFailure(fault.code ?? INVALID_VALUE, 'cuMemcpyAsync'));
    const others = this.#ranges();
    for (const range of copies.flatMap(rangesOf)) {
      const clash = others.find(
        (other) => other.device === range.device && other.start < range.end && range.start < other.end && (other.writes || range.writes),
      );
      if (clash !== undefined) this.#memory.violate(`a copy ${range.writes ? 'to' : 'from'} ${range.start} meets another one under way`);
    }
    for (const copy of copies) {
      const host = copy.direction === 'to-device' ? copy.from : copy.to;
      if (copy.direction !== 'on-device' && !this.#memory.isRegistered(host, copy.sizeBytes)) this.pageableCopies += 1;
    }
    const sums = copies.map((copy) => sumOf(this.#side(copy, 'from')));
    // Whoever looks at a target too early must not find what he hopes for.
    if (copies.length === 1) for (const copy of copies) this.#side(copy, 'to')?.fill(0xee);
    const { promise, resolve: settle } = Promise.withResolvers<CopyDone | DeviceFailure>();
    const submittedAtMs = this.#memory.nowMs();
    this.#batches.push({ copies, sums, submittedAtMs, next: 0, fails: fault !== undefined, told: false, settle, settleLate: undefined });
    this.#memory.wake();
    return promise;
  }

  /** The next copy of a batch that chance picks. False where none is under way. */
  step(lot: Lot): boolean {
    if (this.#batches.length === 0) return false;
    // What has failed late stays late for a while.
    const prompt = this.#batches.filter((candidate) => !candidate.told);
    const batch = lot.pick(prompt.length > 0 && lot.chance(0.9) ? prompt : this.#batches);
    if (batch.fails && !batch.told) {
      batch.told = true;
      const late = new Promise<boolean>((resolve) => (batch.settleLate = resolve));
      batch.settle({ ...simFailure(600, 'cuEventQuery'), name: 'CUDA_ERROR_NOT_READY', late });
      return true;
    }
    const copy = batch.copies[batch.next];
    if (copy !== undefined) this.#move(copy, batch.sums[batch.next]);
    batch.next += 1;
    if (batch.next < batch.copies.length) return true;
    this.#batches = this.#batches.filter((other) => other !== batch);
    if (batch.told) batch.settleLate?.(true);
    else batch.settle({ ok: true, elapsedMs: this.#memory.elapsedMs(batch.submittedAtMs, COPY_MS) });
    return true;
  }

  #move(copy: DeviceCopy, sum: number | bigint | undefined): void {
    const from = this.#side(copy, 'from');
    const to = this.#side(copy, 'to');
    if (from === undefined || to === undefined) return;
    if (sumOf(from) !== sum)
      this.#memory.violate(`the source of a copy ${copy.direction} from ${copy.from} changed while it was under way`);
    to.set(from);
  }

  /** A sticky error: copies under way fail, what is in the device is gone. */
  lose(code = ILLEGAL_ADDRESS): void {
    if (this.lost !== undefined || this.closed) return;
    const failure = simFailure(code, 'cuEventQuery', true);
    this.lost = failure;
    for (const { bytes } of this.#allocations) bytes.fill(0xdd);
    const batches = this.#batches.splice(0);
    this.onLost(failure);
    for (const batch of batches) {
      if (batch.told) batch.settleLate?.(false);
      else batch.settle(failure);
    }
  }

  exportHandle(pointer: DevicePtr): ReturnType<Device['exportHandle']> {
    const failure = this.#failure('exportHandle');
    if (failure !== undefined) return failure;
    const allocation = this.allocation(pointer);
    if (allocation === undefined) return simFailure(INVALID_VALUE, 'cuIpcGetMemHandle');
    if (!this.#memory.exports) return simFailure(NOT_SUPPORTED, 'cuIpcGetMemHandle');
    return { ok: true, handle: this.#memory.handleOf(allocation) };
  }

  openHandle(handle: Uint8Array): ReturnType<Device['openHandle']> {
    const failure = this.#failure('openHandle');
    if (failure !== undefined) return failure;
    const bytes = this.#memory.handleBytes(handle);
    if (bytes === undefined) return simFailure(INVALID_VALUE, 'cuIpcOpenMemHandle');
    const pointer = this.#nextPointer;
    this.#nextPointer += Math.ceil(bytes.length / GAP_BYTES) * GAP_BYTES + GAP_BYTES;
    this.#allocations.push({ pointer, bytes, free: false });
    return { ok: true, pointer: pointer as DevicePtr };
  }

  closeHandle(pointer: DevicePtr): ReturnType<Device['closeHandle']> {
    const allocation = this.#allocations.find((candidate) => candidate.pointer === pointer && !candidate.free);
    if (allocation === undefined) return simFailure(INVALID_VALUE, 'cuIpcCloseMemHandle');
    allocation.free = true;
    return { ok: true };
  }

  close(): Promise<void> {
    if (this.#batches.length > 0 && this.lost === undefined) this.#memory.violate('a device is closed while copies are under way');
    this.closed = true;
    for (const allocation of this.#allocations) allocation.free = true;
    return Promise.resolve();
  }
}

export class SimDeviceMemory implements DeviceMemory {
  readonly kind = 'simulated';
  readonly driverVersion = '12.4';
  readonly devices: readonly DeviceFacts[];
  readonly note: string | undefined;
  readonly violations: string[] = [];
  readonly faults: SimDeviceFault[] = [];
  readonly #opened = new Map<number, SimDevice>();
  readonly #registered = new Map<number, number>();
  readonly #options: SimDeviceOptions;
  readonly #handles: Map<string, { readonly owner: SimDeviceMemory; readonly allocation: Uint8Array }>;

  constructor(options: SimDeviceOptions) {
    this.#options = options;
    this.note = options.note;
    this.#handles = options.handles ?? new Map<string, { readonly owner: SimDeviceMemory; readonly allocation: Uint8Array }>();
    this.devices = options.deviceBytes.map((totalBytes, ordinal) => ({
      ordinal,
      name: 'Simulated GPU',
      uuid: `GPU-00000000-0000-0000-0000-${String(ordinal).padStart(12, '0')}`,
      pciBusId: `0000:0${ordinal}:00.0`,
      totalBytes,
      computeCapability: '9.0',
    }));
  }

  violate(text: string): void {
    this.violations.push(text);
  }

  takeFault(call: SimDeviceCall): SimDeviceFault | undefined {
    const at = this.faults.findIndex((fault) => fault.call === call);
    return at < 0 ? undefined : this.faults.splice(at, 1)[0];
  }

  get exports(): boolean {
    return this.#options.exports ?? true;
  }

  /** Undefined where the machine has no such piece. */
  bytesOf(sizeBytes: number): Uint8Array | undefined {
    if (this.#options.allocate === undefined) return new Uint8Array(sizeBytes).fill(0xdb);
    try {
      return this.#options.allocate(sizeBytes);
    } catch (problem) {
      if (problem instanceof RangeError) return undefined;
      throw problem;
    }
  }

  nowMs(): number {
    return this.#options.monotonicMs?.() ?? 0;
  }

  elapsedMs(sinceMs: number, withoutClockMs: number): number {
    return this.#options.monotonicMs === undefined ? withoutClockMs : this.#options.monotonicMs() - sinceMs;
  }

  wake(): void {
    this.#options.onWork?.();
  }

  hostAt(address: number, sizeBytes: number): Uint8Array {
    return this.#options.host(address, sizeBytes);
  }

  handleOf(allocation: Uint8Array): Uint8Array {
    const handle = new Uint8Array(64);
    const known = [...this.#handles].find(([, entry]) => entry.allocation === allocation)?.[0];
    const id = known ?? `handle-${this.#handles.size}`;
    this.#handles.set(id, { owner: this, allocation });
    handle.set(new TextEncoder().encode(id));
    return handle;
  }

  /** The bytes behind a handle, as whoever opened it sees them. */
  exported(handle: Uint8Array): Uint8Array {
    const entry = this.#handles.get(new TextDecoder().decode(handle).replaceAll('\0', ''));
    if (entry === undefined) throw new Error('Nobody exported that handle');
    return entry.allocation;
  }

  /** Undefined where no other process exported it: a driver refuses a handle in the process that made it. */
  handleBytes(handle: Uint8Array): Uint8Array | undefined {
    const entry = this.#handles.get(new TextDecoder().decode(handle).replaceAll('\0', ''));
    return entry === undefined || entry.owner === this ? undefined : entry.allocation;
  }

  open(ordinal: number): SimDevice | DeviceFailure {
    const facts = this.devices[ordinal];
    const fault = this.takeFault('open');
    if (facts === undefined || fault !== undefined) return simFailure(fault?.code ?? 101, `cuDevicePrimaryCtxRetain(${ordinal})`);
    if (this.#opened.has(ordinal)) this.violate(`device ${ordinal} is opened twice`);
    const device = new SimDevice(this, facts);
    this.#opened.set(ordinal, device);
    return device;
  }

  /** Those that are open. */
  get opened(): readonly SimDevice[] {
    return [...this.#opened.values()].filter((device) => !device.closed);
  }

  registerHost(address: Address, sizeBytes: number): ReturnType<DeviceMemory['registerHost']> {
    const fault = this.takeFault('registerHost');
    if (fault !== undefined) return Promise.resolve(simFailure(fault.code ?? 712, 'cuMemHostRegister'));
    const startedAtMs = this.nowMs();
    if (this.#registered.has(address)) this.violate(`${address} is registered twice`);
    this.#registered.set(address, sizeBytes);
    return Promise.resolve({ ok: true, elapsedMs: this.elapsedMs(startedAtMs, REGISTER_MS) });
  }

  isRegistered(address: number, sizeBytes: number): boolean {
    for (const [start, length] of this.#registered) if (address >= start && address + sizeBytes <= start + length) return true;
    return false;
  }

  unregisterHost(address: Address): ReturnType<DeviceMemory['unregisterHost']> {
    if (!this.#registered.delete(address)) this.violate(`${address} is unregistered and was not registered`);
    return Promise.resolve({ ok: true });
  }

  async close(): Promise<void> {
    for (const device of this.opened) await device.close();
    this.#registered.clear();
  }

  /** A copy on some device. False where none is under way. */
  step(lot: Lot): boolean {
    const busy = this.opened.filter((device) => device.pendingCount > 0);
    return busy.length > 0 && lot.pick(busy).step(lot);
  }

  get activeCount(): number {
    return this.opened.reduce((sum, device) => sum + device.pendingCount, 0);
  }

  /** The process is gone: no copy goes on, nobody hears of it. */
  kill(): void {
    for (const device of this.opened) {
      device.onLost = () => {};
      device.closed = true;
    }
    this.faults.length = 0;
  }

  /** Contexts, allocations and registrations that were not given back, for leak tests. */
  leaks(): { readonly devices: number; readonly bytes: number; readonly registrations: number } {
    return {
      devices: this.opened.length,
      bytes: this.opened.reduce((sum, device) => sum + device.usedBytes, 0),
      registrations: this.#registered.size,
    };
  }

  /** Throws where a driver would have punished somebody. */
  check(): void {
    if (this.violations.length > 0) throw new Error(`Device memory was misused: ${this.violations.join('; ')}`);
  }
}

function rangesOf(
  copy: DeviceCopy,
): { readonly device: boolean; readonly writes: boolean; readonly start: number; readonly end: number }[] {
  const toDevice = copy.direction !== 'to-host';
  const fromDevice = copy.direction !== 'to-device';
  return [
    { device: fromDevice, writes: false, start: copy.from, end: copy.from + copy.sizeBytes },
    { device: toDevice, writes: true, start: copy.to, end: copy.to + copy.sizeBytes },
  ];
}

function sumOf(bytes: Uint8Array | undefined): number | bigint | undefined {
  return bytes === undefined ? undefined : Bun.hash.xxHash3(bytes);
}
