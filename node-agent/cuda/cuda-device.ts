/**
 * One open device: its primary context, copy engine and allocations. Main thread. Made by CudaMemory, which wires poller and registrations.
 *
 * Invariants (checkInvariants): after `close` nothing of the device is alive, unless a copy is stuck (then context, streams and memory are left to the end of
 * the process, since the engine may still write); a device that is lost answers every call with why, without asking the driver.
 */
import { assert } from '#core/assert.ts';
import type { DevicePtr } from '#core/brand.ts';
import type { CopyDone, Device, DeviceCopy, DeviceFacts, DeviceFailure } from '#ports/device-memory.ts';
import type { CompletionPoller } from './completion-poller.ts';
import { CopyEngine } from './copy-engine.ts';
import type { Alive, Context, CudaDriver, DeviceNumber } from './driver.ts';
import { IPC_HANDLE_BYTES } from './ipc-open.ts';
import { CUDA_SUCCESS, ownFailure } from './status.ts';

const MiB = 1024 ** 2;
/**
 * Sizes are rounded up to it. Below, the driver cuts several allocations from one piece of 2 MiB, and an IPC handle opens the whole piece:
 * another process would get what it was not given.
 */
const GRAIN_BYTES = 2 * MiB;
const ALIGNMENT_BYTES = 4096;
const CLOSE_WAIT_MS = 5000;

export interface CudaDeviceOptions {
  readonly inFlightLimit: number;
  readonly stuckMs: number;
  readonly isRegistered: (address: number, sizeBytes: number) => boolean;
  readonly poller: CompletionPoller;
  /** Before the context goes: unpins what it has pinned. The result is called when it is gone. */
  readonly onClose: (context: Context) => Promise<() => Promise<void>>;
}

export class CudaDevice implements Device {
  readonly facts: DeviceFacts;
  readonly context: Context;
  onLost: (failure: DeviceFailure) => void = () => undefined;
  readonly #driver: CudaDriver;
  readonly #number: DeviceNumber;
  readonly #options: CudaDeviceOptions;
  readonly #engine: CopyEngine;
  readonly #allocations = new Set<DevicePtr>();
  /** Pointer -> how often it was opened. */
  readonly #imports = new Map<DevicePtr, number>();
  #lost: DeviceFailure | undefined;
  #closed: Promise<void> | undefined;
  /** The context is given back. */
  #released = false;

  constructor(driver: CudaDriver, identity: { facts: DeviceFacts; number: DeviceNumber; context: Context }, options: CudaDeviceOptions) {
    this.#driver = driver;
    this.facts = identity.facts;
    this.#number = identity.number;
    this.context = identity.context;
    this.#options = options;
    this.#engine = new CopyEngine(driver, identity.context, {
      inFlightLimit: options.inFlightLimit,
      stuckMs: options.stuckMs,
      isRegistered: options.isRegistered,
      onWork: () => options.poller.wake(),
      onLost: (failure) => {
        this.#lost = failure;
        this.onLost(failure);
      },
    });
  }

  static open(
    driver: CudaDriver,
    identity: { readonly facts: DeviceFacts; readonly number: DeviceNumber },
    options: CudaDeviceOptions,
  ): CudaDevice | DeviceFailure {
    const retained = driver.retainPrimary(identity.number);
    if (retained !== CUDA_SUCCESS) return driver.failure(retained, `cuDevicePrimaryCtxRetain(device ${identity.facts.ordinal})`);
    const context = driver.value as Context;
    const device = new CudaDevice(driver, { ...identity, context }, options);
    const current = driver.setCurrent(context);
    const failure = current === CUDA_SUCCESS ? device.#engine.open() : driver.failure(current, 'cuCtxSetCurrent()');
    if (failure === undefined) {
      options.poller.add(device.#engine);
      return device;
    }
    device.#engine[Symbol.dispose]();
    driver.releasePrimary(identity.number);
    return failure;
  }

  get lost(): DeviceFailure | undefined {
    return this.#lost;
  }

  get copiesInFlight(): number {
    return this.#engine.lively;
  }

  get pageableCopies(): number {
    return this.#engine.pageableCopies;
  }

  memory(): ReturnType<Device['memory']> {
    const failure = this.#call(
      () => this.#driver.memoryInfo(),
      () => 'cuMemGetInfo()',
    );
    return failure ?? { ok: true, freeBytes: this.#driver.value, totalBytes: this.#driver.secondValue };
  }

  allocate(sizeBytes: number): { readonly ok: true; readonly pointer: DevicePtr } | DeviceFailure {
    assert(sizeBytes > 0, 'an allocation has bytes');
    const roundedBytes = Math.ceil(sizeBytes / GRAIN_BYTES) * GRAIN_BYTES;
    const failure = this.#call(
      () => this.#driver.allocate(roundedBytes),
      () => `cuMemAlloc(${roundedBytes})`,
    );
    if (failure !== undefined) return failure;
    const pointer = this.#driver.value as DevicePtr;
    if (pointer % ALIGNMENT_BYTES === 0 && pointer < Number.MAX_SAFE_INTEGER) {
      this.#allocations.add(pointer);
      return { ok: true, pointer };
    }
    this.#driver.free(pointer);
    return ownFailure(
      'KVTIER_MISALIGNED',
      `cuMemAlloc(${roundedBytes}) gave 0x${pointer.toString(16)}: not a multiple of ${ALIGNMENT_BYTES}`,
    );
  }

  free(pointer: DevicePtr): { readonly ok: true } | DeviceFailure {
    assert(this.#allocations.has(pointer), 'only what was allocated here is freed');
    const failure = this.#call(
      () => {
        this.#allocations.delete(pointer);
        return this.#driver.free(pointer);
      },
      () => `cuMemFree(0x${pointer.toString(16)})`,
    );
    return failure ?? { ok: true };
  }

  copy(copies: readonly DeviceCopy[]): Promise<CopyDone | DeviceFailure> {
    assert(this.#closed === undefined, 'a closed device copies nothing');
    return this.#engine.copy(copies);
  }

  exportHandle(pointer: DevicePtr): { readonly ok: true; readonly handle: Uint8Array } | DeviceFailure {
    assert(this.#allocations.has(pointer), 'only a whole allocation of this device is exported');
    const handle = new Uint8Array(IPC_HANDLE_BYTES);
    const failure = this.#call(
      () => this.#driver.ipcHandle(handle, pointer),
      () => `cuIpcGetMemHandle(0x${pointer.toString(16)})`,
    );
    return failure ?? { ok: true, handle };
  }

  openHandle(handle: Uint8Array): { readonly ok: true; readonly pointer: DevicePtr } | DeviceFailure {
    if (handle.length !== IPC_HANDLE_BYTES)
      return ownFailure('KVTIER_BAD_HANDLE', `Cannot open a handle of ${handle.length} bytes: it has ${IPC_HANDLE_BYTES}`);
    // The bytes of a handle are a capability: they stand in no message.
    const failure = this.#call(
      () => this.#driver.ipcOpen(handle),
      () => 'cuIpcOpenMemHandle(handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)',
    );
    if (failure !== undefined) return failure;
    const pointer = this.#driver.value as DevicePtr;
    this.#imports.set(pointer, (this.#imports.get(pointer) ?? 0) + 1);
    return { ok: true, pointer };
  }

  closeHandle(pointer: DevicePtr): { readonly ok: true } | DeviceFailure {
    const opens = this.#imports.get(pointer);
    assert(opens !== undefined, 'only a handle that was opened here is closed');
    const failure = this.#call(
      () => {
        if (opens === 1) this.#imports.delete(pointer);
        else this.#imports.set(pointer, opens - 1);
        return this.#driver.ipcClose(pointer);
      },
      () => `cuIpcCloseMemHandle(0x${pointer.toString(16)})`,
    );
    return failure ?? { ok: true };
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const patience = setTimeout(() => {
      this.#engine.lose(ownFailure('KVTIER_CLOSED_BUSY', `Copies were still in flight after ${CLOSE_WAIT_MS} ms of closing`, true));
    }, CLOSE_WAIT_MS);
    await this.#engine.drained();
    clearTimeout(patience);
    const pinAgain = await this.#options.onClose(this.context);
    if (this.#engine.stuck > 0) return;
    this.#options.poller.remove(this.#engine);
    // Nobody else gives back what is here, so that one refusal is not the last word.
    if (this.#driver.setCurrent(this.context) !== CUDA_SUCCESS) this.#driver.setCurrent(this.context);
    for (const pointer of this.#allocations) this.#driver.free(pointer);
    this.#allocations.clear();
    for (const [pointer, opens] of this.#imports) for (let open = 0; open < opens; open += 1) this.#driver.ipcClose(pointer);
    this.#imports.clear();
    this.#engine[Symbol.dispose]();
    this.#driver.releasePrimary(this.#number);
    this.#released = true;
    await pinAgain();
  }

  get isReleased(): boolean {
    return this.#released;
  }

  /** What the driver keeps for it. */
  get holds(): Omit<Alive, 'registrations'> {
    const imports = [...this.#imports.values()].reduce((sum, opens) => sum + opens, 0);
    return { contexts: this.#released ? 0 : 1, allocations: this.#allocations.size, imports, ...this.#engine.holds };
  }

  checkInvariants(): void {
    this.#engine.checkInvariants();
    assert(!this.#released || Object.values(this.holds).every((count) => count === 0), 'a device that is given back holds nothing');
  }

  /** With the context current. A failure that says that the device is lost is told to whom it concerns before it is answered. */
  #call(call: () => number, describe: () => string): DeviceFailure | undefined {
    assert(this.#closed === undefined, 'a closed device is not used');
    if (this.#lost !== undefined) return this.#lost;
    const current = this.#driver.setCurrent(this.context);
    const status = current === CUDA_SUCCESS ? call() : current;
    if (status === CUDA_SUCCESS) return undefined;
    const failure = this.#driver.failure(status, current === CUDA_SUCCESS ? describe() : `cuCtxSetCurrent() for ${describe()}`);
    if (failure.lost) this.#engine.lose(failure);
    return failure;
  }
}
