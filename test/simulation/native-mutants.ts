/** Deliberate bugs of the native door; see mutants.ts. */
import type { Mutant } from './mutant.ts';

export const nativeMutants: readonly Mutant[] = [
  {
    name: 'unmap-under-a-job',
    why: "A region is unmapped when its client goes, whatever still copies there: the agent writes to an address that is nobody's, or somebody else's",
    profile: 'native',
    edits: [
      {
        file: 'node-agent/servers/native/native-memory.ts',
        find: '    this.#onFree = onFree;\n    if (this.#users === 0) this.#free();',
        replace: '    this.#onFree = onFree;\n    this.#free();',
      },
    ],
  },
  {
    name: 'lease-outlives-its-client',
    why: 'A client of the native door that is gone keeps its leases: RAM stays full of what nobody will load',
    profile: 'native',
    edits: [{ file: 'node-agent/servers/native/native-session.ts', find: '    this.#cache.endLeases(this.owner);\n', replace: '' }],
  },
  {
    name: 'answer-while-a-device-writes',
    why: 'LOAD is answered when its device is late: what the client keeps in that memory from then on is overwritten',
    profile: 'native',
    edits: [
      {
        file: 'node-agent/cache/ssd-reader.ts',
        find: '    if (!outcome.ok && outcome.late !== undefined) await outcome.late;\n',
        replace: '',
      },
    ],
  },
  {
    name: 'number-for-an-id',
    why: 'STORE takes the number of a namespace on its connection for the id of a namespace: it stores for another tenant',
    profile: 'native',
    edits: [
      {
        file: 'node-agent/servers/native/native-connection.ts',
        find: 'this.#jobOf(namespace.id, this.#session.region(request.region, request.spans), request)',
        replace: 'this.#jobOf(request.namespace as never, this.#session.region(request.region, request.spans), request)',
      },
    ],
  },
  {
    name: 'tail-through-the-span',
    why: 'A chunk whose length differs from its span is copied all the same: bytes behind the span are overwritten',
    profile: 'native',
    edits: [
      {
        file: 'node-agent/cache/cache.ts',
        find: 'if (entry !== undefined && state.index.sizeBytes(entry) !== client.span.sizeBytes) {',
        replace: 'if (entry !== undefined && state.index.sizeBytes(entry) < 0) {',
      },
      {
        file: 'node-agent/servers/native/native-jobs.ts',
        find: '    if (handle.sizeBytes !== wantedBytes) return loadOutcomes.size;\n',
        replace: '',
      },
    ],
  },
];
