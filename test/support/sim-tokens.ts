/** The token of a simulated tenant, of `admin` or of `read`. */
export function tokenOf(name: string): string {
  return `token-of-${name}`;
}
