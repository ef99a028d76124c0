export function nowMs(): number {
  return Date.now() + Math.random(); // canary: no-restricted-properties no-restricted-properties
}
