/**
 * What the codes of the CUDA driver mean to us. Names and texts come from the driver itself (`cuGetErrorName`, `cuGetErrorString`); here
 * stands only what decides. Source: enum cudaError_enum of the CUDA Driver API reference.
 */
import type { DeviceFailure } from '#ports/device-memory.ts';

export const CUDA_SUCCESS = 0;
export const CUDA_ERROR_NOT_READY = 600;
export const CUDA_ERROR_NOT_SUPPORTED = 801;
/** `DeviceFailure.code` where no driver said it. */
export const OWN_FAILURE = -1;

/**
 * The sticky ones: the reference says of each that the process' context is left in an inconsistent state and that further work answers the
 * same, or the context or the client is gone. Everything in device memory is lost. 999 (unknown) is none of them: a card that fell off its
 * bus answers it again and again, which cuda-device.ts notices by the repetition.
 */
const sticky: ReadonlySet<number> = new Set([
  4, // DEINITIALIZED: the driver shuts down
  46, // DEVICE_UNAVAILABLE: taken by another in exclusive mode, or gone
  214, // ECC_UNCORRECTABLE
  220, // NVLINK_UNCORRECTABLE
  226, // CONTAINED: a fault of the fabric or of the hardware, contained to this process
  700, // ILLEGAL_ADDRESS
  702, // LAUNCH_TIMEOUT
  709, // CONTEXT_IS_DESTROYED
  710, // ASSERT
  714, // HARDWARE_STACK_ERROR
  715, // ILLEGAL_INSTRUCTION
  716, // MISALIGNED_ADDRESS
  717, // INVALID_ADDRESS_SPACE
  718, // INVALID_PC
  719, // LAUNCH_FAILED
  721, // TENSOR_MEMORY_LEAK
  806, // MPS_RPC_FAILURE
  810, // MPS_CLIENT_TERMINATED
]);

export function isSticky(code: number): boolean {
  return sticky.has(code);
}

/** A failure that this side found, where the driver said nothing. */
export function ownFailure(name: `KVTIER_${string}`, message: string, lost = false): DeviceFailure {
  return { ok: false, code: OWN_FAILURE, name, message, lost };
}
