/** Redis' glob patterns over bytes: `*`, `?`, `[abc]`, `[^a-z]`, `\x`. Time is at most pattern times text: one star is retried, never all. */
const STAR = 0x2a;
const QUESTION = 0x3f;
const OPEN = 0x5b;
const CLOSE = 0x5d;
const BACKSLASH = 0x5c;
const CARET = 0x5e;
const DASH = 0x2d;

export function matchesGlob(pattern: Uint8Array, text: Uint8Array): boolean {
  let p = 0;
  let t = 0;
  let starP = -1;
  let starT = 0;
  while (t < text.length) {
    if (pattern[p] === STAR) {
      starP = p;
      starT = t;
      p += 1;
      continue;
    }
    const next = p < pattern.length ? matchOne(pattern, p, text[t] ?? 0) : -1;
    if (next >= 0) {
      p = next;
      t += 1;
    } else if (starP >= 0) {
      starT += 1;
      t = starT;
      p = starP + 1;
    } else return false;
  }
  while (pattern[p] === STAR) p += 1;
  return p >= pattern.length;
}

/** Position behind the element at `p` if it matches `byte`, or -1. */
function matchOne(pattern: Uint8Array, p: number, byte: number): number {
  const code = pattern[p];
  if (code === QUESTION) return p + 1;
  if (code === OPEN) return matchClass(pattern, p + 1, byte);
  if (code === BACKSLASH && p + 1 < pattern.length) return pattern[p + 1] === byte ? p + 2 : -1;
  return code === byte ? p + 1 : -1;
}

function matchClass(pattern: Uint8Array, start: number, byte: number): number {
  let p = start;
  const negated = pattern[p] === CARET;
  if (negated) p += 1;
  let found = false;
  while (p < pattern.length && pattern[p] !== CLOSE) {
    if (pattern[p] === BACKSLASH && p + 1 < pattern.length) {
      found ||= pattern[p + 1] === byte;
      p += 2;
    } else if (pattern[p + 1] === DASH && p + 2 < pattern.length) {
      const [a, b] = [pattern[p] ?? 0, pattern[p + 2] ?? 0];
      found ||= byte >= Math.min(a, b) && byte <= Math.max(a, b);
      p += 3;
    } else {
      found ||= pattern[p] === byte;
      p += 1;
    }
  }
  return found !== negated ? p + 1 : -1;
}
