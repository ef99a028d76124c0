/** The catalog's worker: a CatalogService behind messages. Entry of a Bun Worker. */
import type { CatalogRequest } from './catalog-protocol.ts';
import { CatalogService } from './catalog-service.ts';

declare const self: Worker;

const service = new CatalogService();

self.onmessage = (event: MessageEvent<CatalogRequest>): void => {
  const { reply, transfer } = service.answer(event.data);
  self.postMessage(reply, transfer);
};
