/**
 * Memory of GPUs ("devices"), reached by DMA. The caller names memory by address and length on both sides; no payload crosses the
 * JavaScript heap, and a pointer into a device is never dereferenced here.
 *
 * Ownership: from `copy` until its promise settles both ends belong to the driver: the source stays allocated and unchanged, the target
 * allocated and unread. That holds for a copy that failed too, and where `late` is given until that settles. Main thread only; nothing here
 * blocks it for longer than a driver call that does not wait.
 */
import type { Address, DevicePtr } from '#core/brand.ts';

/** 'simulated': the twin of the tests, and of a machine without a C compiler; 'emulated': a driver without a card behind the same calls. Shown wherever numbers are. */
export type DeviceKind = 'cuda' | 'emulated' | 'simulated';

export interface DeviceFacts {
  /** Number of the device in the driver's order. */
  readonly ordinal: number;
  readonly name: string;
  /** `GPU-` and a UUID: what names a device across processes and containers. */
  readonly uuid: string;
  /** `0000:01:00.0` */
  readonly pciBusId: string;
  readonly totalBytes: number;
  /** `9.0` */
  readonly computeCapability: string;
}

/** A driver call that failed. A value, not an exception: a device that says no is an ordinary day. */
export interface DeviceFailure {
  readonly ok: false;
  /** CUresult of cuda.h; -1 where no driver said so but this side did. */
  readonly code: number;
  /** `CUDA_ERROR_OUT_OF_MEMORY`; `KVTIER_…` of this side. */
  readonly name: string;
  /** For people: the call with its arguments, and the driver's own text. */
  readonly message: string;
  /** The device's context is of no use any more (a sticky error): everything in it is lost, and further calls fail likewise. */
  readonly lost: boolean;
  /** Only of a copy: the engine may still be at work on both ends until this settles, with whether it was done after all. May never settle. */
  readonly late?: Promise<boolean>;
}

/** Bytes from one place to another. Host addresses that are not registered work, through a bounce buffer of the driver, and are counted. */
export type DeviceCopy =
  | { readonly direction: 'to-device'; readonly from: Address; readonly to: DevicePtr; readonly sizeBytes: number }
  | { readonly direction: 'to-host'; readonly from: DevicePtr; readonly to: Address; readonly sizeBytes: number }
  | { readonly direction: 'on-device'; readonly from: DevicePtr; readonly to: DevicePtr; readonly sizeBytes: number };

export interface CopyDone {
  readonly ok: true;
  /** Between submission and completion as the device measured it, ms. */
  readonly elapsedMs: number;
}

export interface Device {
  readonly facts: DeviceFacts;
  /** Undefined while the device is of use. */
  readonly lost: DeviceFailure | undefined;
  /** Runs once, when the device is found lost, before any caller of the failing call hears of it. */
  onLost: (failure: DeviceFailure) => void;
  memory(): { readonly ok: true; readonly freeBytes: number; readonly totalBytes: number } | DeviceFailure;
  /** Contents are undefined. Aligned to at least 4 KiB. */
  allocate(sizeBytes: number): { readonly ok: true; readonly pointer: DevicePtr } | DeviceFailure;
  /** Of an allocation that no copy uses any more. */
  free(pointer: DevicePtr): { readonly ok: true } | DeviceFailure;
  /**
   * Settles when the last is done, never before. In no order, within a list and between calls: what depends on another copy waits for its
   * promise. An empty list is a bug, and so is a copy of nothing.
   */
  copy(copies: readonly DeviceCopy[]): Promise<CopyDone | DeviceFailure>;
  /** Batches that are submitted and not settled. */
  readonly copiesInFlight: number;
  /** Copies so far whose host side was not registered: they took the driver's bounce buffer, and the main thread may have waited for it. */
  readonly pageableCopies: number;
  /** 64 bytes that another process of the same user turns into a pointer; they open the whole allocation, for reading and writing. */
  exportHandle(pointer: DevicePtr): { readonly ok: true; readonly handle: Uint8Array } | DeviceFailure;
  /** Of another process; give it back with `closeHandle`. */
  openHandle(handle: Uint8Array): { readonly ok: true; readonly pointer: DevicePtr } | DeviceFailure;
  closeHandle(pointer: DevicePtr): { readonly ok: true } | DeviceFailure;
  /** Waits for copies in flight (bounded), frees what is allocated, gives the context back. */
  close(): Promise<void>;
}

export interface DeviceMemory {
  readonly kind: DeviceKind;
  /** For people: why it is not what was asked for. Left out: it is. */
  readonly note?: string | undefined;
  /** `12.4`, as the driver says. */
  readonly driverVersion: string;
  readonly devices: readonly DeviceFacts[];
  /** Makes this process' context on the device: hundreds of MiB of the card. One device is opened once. */
  open(ordinal: number): Device | DeviceFailure;
  /**
   * Pins host memory for all devices (portable), off the main thread, since it takes as long as touching the pages. Page-aligned. Until it
   * has settled copies go the slow way.
   */
  registerHost(address: Address, sizeBytes: number): Promise<{ readonly ok: true; readonly elapsedMs: number } | DeviceFailure>;
  unregisterHost(address: Address): Promise<{ readonly ok: true } | DeviceFailure>;
  /** Closes devices that are open, and unregisters. */
  close(): Promise<void>;
}

/** There is no device memory, and why: for health and the start screen. */
export interface NoDeviceMemory {
  readonly reason: string;
}
