/** Answers the requests of a CatalogLink: one CatalogDatabase, one request at a time, one reply for each. Lives in the catalog's worker. */
import { CatalogDatabase } from './catalog-database.ts';
import { SqliteFiles } from './catalog-files.ts';
import type { CatalogFiles } from './catalog-files.ts';
import { CatalogFailure } from './catalog-protocol.ts';
import type { CatalogBatch, CatalogCalls, CatalogReply, CatalogRequest, OpenOptions } from './catalog-protocol.ts';
import { transferOf } from './chunk-page.ts';

export class CatalogService {
  readonly #filesOf: (path: string) => CatalogFiles;
  #database: CatalogDatabase | undefined;

  constructor(filesOf: (path: string) => CatalogFiles = (path) => new SqliteFiles(path)) {
    this.#filesOf = filesOf;
  }

  /** Never throws: what went wrong is in the reply. `transfer`: buffers of the reply that need no copy. */
  answer(request: CatalogRequest): { readonly reply: CatalogReply; readonly transfer: ArrayBuffer[] } {
    const { id } = request;
    let transfer: ArrayBuffer[] = [];
    let outcome: { ok: true; answer: unknown } | { ok: false; kind: CatalogFailure['kind']; message: string };
    try {
      const answer = this.#serve(request);
      if (request.call === 'page') transfer = transferOf(answer as CatalogCalls['page']['answer']);
      outcome = { ok: true, answer };
    } catch (error) {
      const failure =
        error instanceof CatalogFailure ? error : new CatalogFailure('bug', error instanceof Error ? error.message : String(error), error);
      outcome = { ok: false, kind: failure.kind, message: failure.message };
    }
    const database = this.#database;
    return { reply: { id, walBytes: database?.walBytes() ?? 0, setAside: database?.takeSetAside() ?? [], ...outcome }, transfer };
  }

  #serve(request: CatalogRequest): unknown {
    if (request.call === 'open') {
      this.#database?.close();
      this.#database = undefined;
      const options = request.ask as OpenOptions;
      this.#database = new CatalogDatabase(options, this.#filesOf(options.path));
      return null;
    }
    const database = this.#database;
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
        this.#database = undefined;
        return null;
    }
  }
}
