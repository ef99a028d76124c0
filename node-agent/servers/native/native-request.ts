/** Requests and replies of the native door by their names, and the answer to a request that cannot be done. */
import type { Values } from '#protocol/native/native-codec.ts';
import type { OperationName, StatusName, nativeOperations } from '#protocol/native/native-schema.ts';

export type Request<Name extends OperationName> = Values<(typeof nativeOperations)[Name]['request']>;
export type Reply<Name extends OperationName> = Values<(typeof nativeOperations)[Name]['reply']>;

/** The request cannot be done; the connection goes on. */
export class Refusal extends Error {
  readonly status: StatusName;

  constructor(status: StatusName, message: string) {
    super(message);
    this.status = status;
  }
}
