/** The catalog's worker: one CatalogDatabase, one request at a time, one reply for each. Entry of a Bun Worker. */
import { CatalogDatabase } from './catalog-database.ts';
import { CatalogFailure } from './catalog-protocol.ts';
import type { CatalogBatch, CatalogReply, CatalogRequest, CatalogCalls, OpenOptions } from './catalog-protocol.ts';
import { transferOf } from './chunk-page.ts';

declare const self: Worker;

let database: CatalogDatabase | undefined;

self.onmessage = (event: MessageEvent<CatalogRequest>): void => {
  const { id } = event.data;
  let transfer: ArrayBuffer[] = [];
  let outcome: { ok: true; answer: unknown } | { ok: false; kind: CatalogFailure['kind']; message: string };
  try {
    const answer = serve(event.data);
    if (event.data.call === 'page') transfer = transferOf(answer as CatalogCalls['page']['answer']);
    outcome = { ok: true, answer };
  } catch (error) {
    const failure =
      error instanceof CatalogFailure ? error : new CatalogFailure('bug', error instanceof Error ? error.message : String(error), error);
    outcome = { ok: false, kind: failure.kind, message: failure.message };
  }
  const reply: CatalogReply = { id, walBytes: database?.walBytes() ?? 0, setAside: database?.takeSetAside() ?? [], ...outcome };
  self.postMessage(reply, transfer);
};

function serve(request: CatalogRequest): unknown {
  if (request.call === 'open') {
    database?.close();
    database = undefined;
    database = new CatalogDatabase(request.ask as OpenOptions);
    return null;
  }
  if (database === undefined) throw new CatalogFailure('gone', 'The catalog is not open');
  switch (request.call) {
    case 'page':
      return database.page((request.ask as CatalogCalls['page']['ask']).limit);
    case 'endLoad':
      database.endLoad();
      return null;
    case 'apply':
      database.apply(request.ask as CatalogBatch);
      return null;
    case 'checkpoint':
      database.checkpoint();
      return null;
    case 'invalidations': {
      const { beforeId, limit } = request.ask as CatalogCalls['invalidations']['ask'];
      return database.invalidations(beforeId, limit);
    }
    case 'close':
      database.close();
      database = undefined;
      return null;
  }
}
