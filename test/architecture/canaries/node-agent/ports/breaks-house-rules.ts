export default function answer(): number { // canary: no-default-export
  return 42;
}

export function takesAny(value: any): number { // canary: no-explicit-any
  const first: number = value; // canary: no-unsafe-assignment
  const second = Math.abs(value); // canary: no-unsafe-argument
  value(); // canary: no-unsafe-call
  if (first > second) return value; // canary: no-unsafe-return
  return first + Number(value.whatever); // canary: no-unsafe-member-access
}

export function takesFour(a: number, b: number, c: number, d: number): number { // canary: max-params
  return a + b + c + d;
}

export function compares(a: unknown, b: unknown): boolean {
  return a == b; // canary: eqeqeq
}

async function later(): Promise<void> {
  await Promise.resolve();
}

export function floats(): void {
  later(); // canary: no-floating-promises
}

export function swallows(): void {
  try {
    floats();
  } catch {} // canary: no-empty
}

export function throwsText(): never {
  throw 'text'; // canary: only-throw-error no-throw-literal
}

export function prints(): void {
  console.log('to whom?'); // canary: no-console
}

export function chooses(tier: 'hbm' | 'ram' | 'ssd'): number {
  switch (tier) { // canary: switch-exhaustiveness-check
    case 'hbm':
      return 1;
    case 'ram':
      return 2;
  }
  return 3;
}

export function misuses(list: readonly number[]): void {
  list.forEach(async () => { // canary: no-misused-promises
    await later();
  });
}

export async function awaitsNumber(value: number): Promise<number> {
  await value; // canary: await-thenable
  return value;
}

export async function returnsTooEarly(): Promise<void> {
  try {
    return later(); // canary: return-await
  } catch (error) {
    throw new Error('Cannot come later', { cause: error });
  }
}

export function declares(): number {
  var old = 1; // canary: no-var
  let never = 2; // canary: prefer-const
  old += never;
  return old as number; // canary: no-unnecessary-type-assertion
}

/** @deprecated Use `declares`. */
export function declaresBadly(): number {
  return 3;
}

export const deprecatedCall: number = declaresBadly(); // canary: no-deprecated
