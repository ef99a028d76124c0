/** A thread that runs one of a few named errands on a library that the main thread has loaded too, and answers with numbers. */
import { parentPort, workerData } from 'node:worker_threads';
import { Driver } from './driver.ts';

export interface Errand {
  readonly libraryPath: string;
  readonly name: 'nothing-current' | 'use-context' | 'retain';
  readonly context: number;
}

const { libraryPath, name, context } = workerData as Errand;
const driver = new Driver(libraryPath);

function answer(): readonly number[] {
  if (name === 'nothing-current') return [driver.cu.cuMemAlloc_v2(new BigUint64Array(1), 4096)];
  if (name === 'retain') {
    const out = new BigUint64Array(1);
    return [driver.cu.cuDevicePrimaryCtxRetain(out, 0), Number(out[0]), driver.cu.cuDevicePrimaryCtxRelease_v2(0)];
  }
  return [driver.cu.cuCtxSetCurrent(context), driver.freeBytes(), driver.allocate(8192)];
}

parentPort?.postMessage(answer());
