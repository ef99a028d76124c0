/** What the main thread and the registration worker say to each other. Numbers and texts only. */
import type { DeviceFailure } from '#ports/device-memory.ts';

export type RegisterRequest =
  | { readonly kind: 'load'; readonly path: string }
  | { readonly kind: 'register'; readonly id: number; readonly context: number; readonly address: number; readonly sizeBytes: number }
  | { readonly kind: 'unregister'; readonly id: number; readonly context: number; readonly address: number };

export interface RegisterReply {
  readonly id: number;
  /** Undefined: done. */
  readonly failure: DeviceFailure | undefined;
  readonly elapsedMs: number;
}
