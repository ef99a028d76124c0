/** The last epoch: a generation is epoch * 2^32 + counter, at most 2^53 - 1, and the run after this one needs an epoch too. */
export const MAX_EPOCH = 2 ** 21 - 2;
