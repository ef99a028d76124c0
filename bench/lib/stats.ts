/** Middle of the values, the mean of the two middle ones of an even number; NaN of none. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The value below which `share` of the values lie, interpolated between neighbours. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}

/**
 * Runs two sides by turns, which of them first alternating too, so that a drift of the machine meets both alike. Each returns its
 * number; the answer has one number of each a round.
 */
export async function alternate(rounds: number, sides: Sides): Promise<{ readonly ours: number[]; readonly peer: number[] }> {
  const ours: number[] = [];
  const peer: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    if (round % 2 === 0) ours.push(await sides.ours());
    peer.push(await sides.peer());
    if (round % 2 === 1) ours.push(await sides.ours());
  }
  return { ours, peer };
}

interface Sides {
  readonly ours: () => number | Promise<number>;
  readonly peer: () => number | Promise<number>;
}
