/** How firmly a chunk is kept: soft goes after everything that is not pinned, hard never goes for space. */
export type PinMode = 'soft' | 'hard';
