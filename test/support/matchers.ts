/** Vitest's asymmetric matchers are typed `any`; these are not. */
import { expect } from 'vitest';

export function stringContaining(part: string): unknown {
  return expect.stringContaining(part);
}

export function stringMatching(pattern: RegExp): unknown {
  return expect.stringMatching(pattern);
}
