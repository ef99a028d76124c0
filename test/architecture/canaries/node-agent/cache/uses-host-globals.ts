export function wait(): unknown {
  const started = performance.now(); // canary: no-restricted-globals
  setTimeout(() => undefined, started); // canary: no-restricted-globals
  return [Bun.version, process.pid]; // canary: no-restricted-globals no-restricted-globals
}
