/**
 * The thread that pins host memory: `cuMemHostRegister` touches and locks every page, which takes a few hundred ms a GiB, and its opposite
 * waits for the device. It makes the context of the main thread current here instead of retaining it once more, so that there is one owner;
 * the main thread lets a context go only when nothing is under way here.
 */
import type { Address } from '#core/brand.ts';
import type { DeviceFailure } from '#ports/device-memory.ts';
import { CudaDriver, type Context } from './driver.ts';
import type { RegisterReply, RegisterRequest } from './register-messages.ts';
import { CUDA_SUCCESS, ownFailure } from './status.ts';

declare const self: Worker;

let path = '';
let loaded: CudaDriver | undefined;

/** Tried again by the next request where it fails. */
function load(): CudaDriver | DeviceFailure {
  if (loaded !== undefined) return loaded;
  const driver = CudaDriver.load(path);
  if (typeof driver === 'string') return ownFailure('KVTIER_NO_DRIVER', driver);
  const status = driver.initialize();
  if (status !== CUDA_SUCCESS) return driver.failure(status, 'cuInit(0) in the registration worker');
  loaded = driver;
  return driver;
}

function run(request: Exclude<RegisterRequest, { readonly kind: 'load' }>): RegisterReply {
  const { id } = request;
  const driver = load();
  if ('ok' in driver) return { id, failure: driver, elapsedMs: 0 };
  const startedAtMs = performance.now();
  let current = driver.setCurrent(request.context as Context);
  if (current !== CUDA_SUCCESS && request.kind === 'unregister') current = driver.setCurrent(request.context as Context);
  if (current !== CUDA_SUCCESS) return { id, failure: driver.failure(current, 'cuCtxSetCurrent()'), elapsedMs: 0 };
  const address = request.address as Address;
  const status = request.kind === 'register' ? driver.registerHost(address, request.sizeBytes) : driver.unregisterHost(address);
  // Else the next registration could find a context current that was released and made anew under the same number.
  driver.setCurrent(0 as Context);
  const elapsedMs = performance.now() - startedAtMs;
  if (status === CUDA_SUCCESS) return { id, failure: undefined, elapsedMs };
  const shown = `0x${address.toString(16)}`;
  const call =
    request.kind === 'register'
      ? `cuMemHostRegister(${shown}, ${request.sizeBytes}, CU_MEMHOSTREGISTER_PORTABLE)`
      : `cuMemHostUnregister(${shown})`;
  return { id, failure: driver.failure(status, call), elapsedMs };
}

self.onmessage = (event: MessageEvent<RegisterRequest>): void => {
  const request = event.data;
  if (request.kind === 'load') path = request.path;
  else self.postMessage(run(request));
};
