/** DeviceMemory on the CUDA driver, or a sentence why there is none. Opens no context: that is `open`'s business. */
import { assert } from '#core/assert.ts';
import type { Address } from '#core/brand.ts';
import type { Device, DeviceFacts, DeviceFailure, DeviceKind, DeviceMemory, NoDeviceMemory } from '#ports/device-memory.ts';
import { CompletionPoller } from './completion-poller.ts';
import { CudaDevice } from './cuda-device.ts';
import { CudaDriver, type Alive, type DeviceNumber } from './driver.ts';
import { HostRegistrar } from './host-registrar.ts';
import { CUDA_SUCCESS } from './status.ts';

export const DEFAULT_DRIVER_PATH = 'libcuda.so.1';
/** CUDA 11.0 brought the last of the functions that are required (driver 450). */
const OLDEST_VERSION = 11_000;
/** CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR. */
const [COMPUTE_MAJOR, COMPUTE_MINOR] = [75, 76] as const;

export interface CudaMemoryOptions {
  /** What dlopen gets. */
  readonly driverPath?: string;
  /** 'emulated' where the library is the emulator: shown wherever numbers are. */
  readonly kind?: Exclude<DeviceKind, 'simulated'>;
  /** Batches of one device that are with the driver at once; more wait here. */
  readonly inFlightLimit?: number;
  /** A copy that takes longer makes its device lost. */
  readonly stuckMs?: number;
}

/** What this binding knows beyond the port: for tests, benchmarks and doctor. */
export interface CudaMemory extends DeviceMemory {
  /** What is alive in this process of each kind, without what the worker counts. */
  readonly alive: Readonly<Alive>;
  readonly poller: CompletionPoller;
  readonly driver: CudaDriver;
  /** Throws an InvariantError: also where the driver keeps something that no device knows of. Not while a call is under way. */
  checkInvariants(): void;
}

export function openCudaMemory(options: CudaMemoryOptions = {}): CudaMemory | NoDeviceMemory {
  const driver = CudaDriver.load(options.driverPath ?? DEFAULT_DRIVER_PATH);
  if (typeof driver === 'string') return { reason: driver };
  const version = driver.version();
  if (version !== CUDA_SUCCESS) return { reason: driver.failure(version, 'cuDriverGetVersion()').message };
  const driverVersion = versionText(driver.int);
  if (driver.int < OLDEST_VERSION)
    return {
      reason: `The CUDA driver is too old: it supports CUDA ${driverVersion}, and ${versionText(OLDEST_VERSION)} is the oldest that will do`,
    };
  const initialized = driver.initialize();
  if (initialized !== CUDA_SUCCESS) return { reason: initSentence(driver.failure(initialized, 'cuInit(0)')) };
  const counted = driver.deviceCount();
  if (counted !== CUDA_SUCCESS) return { reason: driver.failure(counted, 'cuDeviceGetCount()').message };
  const found = driver.int;
  if (found === 0) return { reason: 'The CUDA driver has no device' };
  const devices: KnownDevice[] = [];
  let instances = 0;
  for (let ordinal = 0; ordinal < found; ordinal += 1) {
    const device = readDevice(driver, ordinal);
    if ('ok' in device) return { reason: device.message };
    if (device.isInstance) instances += 1;
    else devices.push(device);
  }
  if (devices.length === 0)
    return {
      reason: `The device is a MIG instance (${instances} of ${found}): memory of one cannot be shared with engines on another, so the hbm tier does not use it`,
    };
  return new OpenCudaMemory(driver, { devices, driverVersion, options });
}

function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** What goes wrong at the start has causes that people can do something about. */
function initSentence(failure: DeviceFailure): string {
  const advice: Readonly<Record<number, string>> = {
    34: 'the library is the stub of a toolkit, not the driver',
    100: 'the driver is there and no device: none is installed, or none is visible here (CUDA_VISIBLE_DEVICES, the container runtime)',
    802: 'the fabric is not up yet (nvidia-fabricmanager)',
    803: 'the kernel module and the library are of different versions',
    804: 'the compatibility package does not support this card',
    999: 'the device files may be missing or not permitted (/dev/nvidia*, nvidia-modprobe)',
  };
  const hint = advice[failure.code];
  return hint === undefined ? `No CUDA device: ${failure.message}` : `No CUDA device: ${hint}. ${failure.message}`;
}

interface KnownDevice {
  readonly number: DeviceNumber;
  readonly facts: DeviceFacts;
  readonly isInstance: boolean;
}

function readDevice(driver: CudaDriver, ordinal: number): KnownDevice | DeviceFailure {
  let failure: DeviceFailure | undefined;
  /** Runs a call and reads its result, unless one before it has failed. */
  const read = <T>(call: string, run: () => number, result: readonly [read: () => T, nothing: T]): T => {
    if (failure !== undefined) return result[1];
    const status = run();
    if (status === CUDA_SUCCESS) return result[0]();
    failure = driver.failure(status, `${call} of device ${ordinal}`);
    return result[1];
  };
  const text = [(): string => driver.text, ''] as const;
  const int = [(): number => driver.int, 0] as const;
  const size = [(): number => driver.value, 0] as const;
  const identity = [(): string => uuidText(driver.uuidBytes), ''] as const;
  const number = read('cuDeviceGet', () => driver.device(ordinal), int) as DeviceNumber;
  const name = read('cuDeviceGetName', () => driver.deviceName(number), text);
  const uuid = read('cuDeviceGetUuid_v2', () => driver.uuid(number), identity);
  const cardUuid = read('cuDeviceGetUuid', () => driver.cardUuid(number), identity);
  const pciBusId = read('cuDeviceGetPCIBusId', () => driver.pciBusId(number), text);
  const totalBytes = read('cuDeviceTotalMem', () => driver.totalBytes(number), size);
  const major = read('cuDeviceGetAttribute', () => driver.attribute(COMPUTE_MAJOR, number), int);
  const minor = read('cuDeviceGetAttribute', () => driver.attribute(COMPUTE_MINOR, number), int);
  // Of a MIG instance the newer call tells the instance's own UUID; a driver without it says MIG in the name.
  const isInstance = uuid !== cardUuid || / MIG \d/.test(name);
  return failure ?? { number, isInstance, facts: { ordinal, name, uuid, pciBusId, totalBytes, computeCapability: `${major}.${minor}` } };
}

/** `GPU-` and 8-4-4-4-12 hex digits. */
function uuidText(bytes: Uint8Array): string {
  return `GPU-${bytes.toHex().replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')}`;
}

class OpenCudaMemory implements CudaMemory {
  readonly kind: DeviceKind;
  readonly driverVersion: string;
  readonly devices: readonly DeviceFacts[];
  readonly poller = new CompletionPoller();
  readonly driver: CudaDriver;
  readonly #known: readonly KnownDevice[];
  readonly #options: CudaMemoryOptions;
  readonly #registrar: HostRegistrar;
  /** Those that are open, by ordinal, and all that ever were and may be closing. */
  readonly #open = new Map<number, CudaDevice>();
  readonly #everOpen = new Set<CudaDevice>();
  #closed: Promise<void> | undefined;

  constructor(driver: CudaDriver, found: { devices: readonly KnownDevice[]; driverVersion: string; options: CudaMemoryOptions }) {
    this.driver = driver;
    this.kind = found.options.kind ?? 'cuda';
    this.driverVersion = found.driverVersion;
    this.#known = found.devices;
    this.devices = found.devices.map((device) => device.facts);
    this.#options = found.options;
    this.#registrar = new HostRegistrar(driver.path, () => {
      for (const device of this.#open.values()) if (device.lost === undefined) return device.context;
      return undefined;
    });
  }

  get alive(): Readonly<Alive> {
    return { ...this.driver.alive, registrations: this.#registrar.registrations };
  }

  open(ordinal: number): Device | DeviceFailure {
    assert(this.#closed === undefined, 'a closed device memory opens nothing');
    assert(!this.#open.has(ordinal), `device ${ordinal} is opened once`);
    const known = this.#known.find((device) => device.facts.ordinal === ordinal);
    assert(known !== undefined, `device ${ordinal} is one of those that were found`);
    const device = CudaDevice.open(this.driver, known, {
      inFlightLimit: this.#options.inFlightLimit ?? 256,
      stuckMs: this.#options.stuckMs ?? 30_000,
      isRegistered: (address, sizeBytes) => this.#registrar.isRegistered(address, sizeBytes),
      poller: this.poller,
      onClose: (context) => {
        this.#open.delete(ordinal);
        return this.#registrar.release(context);
      },
    });
    if (!(device instanceof CudaDevice)) return device;
    this.#open.set(ordinal, device);
    this.#everOpen.add(device);
    return device;
  }

  registerHost(address: Address, sizeBytes: number): Promise<{ readonly ok: true; readonly elapsedMs: number } | DeviceFailure> {
    return this.#registrar.register(address, sizeBytes);
  }

  unregisterHost(address: Address): Promise<{ readonly ok: true } | DeviceFailure> {
    return this.#registrar.unregister(address);
  }

  checkInvariants(): void {
    const devices = [...this.#everOpen];
    for (const device of devices) device.checkInvariants();
    this.#registrar.checkInvariants((context) => devices.some((device) => device.context === context && !device.isReleased));
    for (const kind of ['contexts', 'allocations', 'imports', 'streams', 'events'] as const) {
      const held = devices.reduce((sum, device) => sum + device.holds[kind], 0);
      assert(this.driver.alive[kind] === held, `the driver keeps ${this.driver.alive[kind]} ${kind}, and devices know of ${held}`);
    }
    for (const [ordinal, device] of this.#open) assert(!device.isReleased, `device ${ordinal} is open and not given back`);
  }

  close(): Promise<void> {
    this.#closed ??= (async (): Promise<void> => {
      // All at once, so that none pins for one that closes next.
      this.#open.clear();
      await Promise.all([...this.#everOpen].map((device) => device.close()));
      await this.#registrar.close();
    })();
    return this.#closed;
  }
}
