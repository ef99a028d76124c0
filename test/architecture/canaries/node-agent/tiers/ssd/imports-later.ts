export async function load(): Promise<unknown> {
  return import('#cache/chunk-index.ts'); // canary: no-restricted-imports
}
