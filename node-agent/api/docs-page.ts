/** The OpenAPI document as one page of HTML: no script, no style sheet, font or image from elsewhere, so it works on an air-gapped node. */

/** The parts of the document that are printed. */
export interface PrintableDocument {
  readonly info: { readonly title: string; readonly version: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, PrintableOperation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, unknown>> };
}

interface PrintableOperation {
  readonly summary?: string;
  readonly description?: string;
  readonly tags?: readonly string[];
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly required?: boolean; readonly schema?: unknown }[];
  readonly requestBody?: unknown;
  readonly responses?: unknown;
}

/** Allows nothing but the page's own style. */
export const DOCS_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const style = `body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
code,pre{font-family:ui-monospace,monospace;font-size:13px}pre{background:#f4f4f4;padding:.6rem;overflow:auto}
h3{border-top:1px solid #ddd;padding-top:.8rem}summary{cursor:pointer;color:#555}
@media (prefers-color-scheme:dark){body{background:#161616;color:#ddd}pre{background:#222}}`;

export function docsPage(document: PrintableDocument): string {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => printOperation(`${method.toUpperCase()} ${path}`, operation)),
  );
  const schemas = Object.entries(document.components.schemas).map(
    ([name, schema]) => `<h3 id="schema-${escape(name)}">${escape(name)}</h3>${pre(schema)}`,
  );
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
    `<title>${escape(document.info.title)}</title><style>${style}</style></head><body>`,
    `<h1>${escape(document.info.title)} ${escape(document.info.version)}</h1>`,
    '<p>The same as JSON: <a href="/openapi.json">/openapi.json</a>. Send <code>Authorization: Bearer TOKEN</code> where a token is configured.</p>',
    '<h2>Routes</h2>',
    ...operations,
    '<h2>Schemas</h2>',
    ...schemas,
    '</body></html>',
  ].join('\n');
}

function printOperation(title: string, operation: PrintableOperation): string {
  const parameters = (operation.parameters ?? []).map(
    ({ name, in: where, required, schema }) =>
      `<li><code>${escape(name)}</code> in ${escape(where)}${required === true ? ', required' : ''} <code>${escape(JSON.stringify(schema ?? {}))}</code></li>`,
  );
  return [
    `<h3><code>${escape(title)}</code></h3>`,
    `<p>${escape(operation.summary ?? '')}. ${escape(operation.description ?? '')}</p>`,
    parameters.length === 0 ? '' : `<ul>${parameters.join('')}</ul>`,
    operation.requestBody === undefined ? '' : `<details><summary>Request</summary>${pre(operation.requestBody)}</details>`,
    `<details><summary>Answers</summary>${pre(operation.responses ?? {})}</details>`,
  ].join('');
}

function pre(value: unknown): string {
  return `<pre>${escape(JSON.stringify(value, null, 2))}</pre>`;
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? character);
}
