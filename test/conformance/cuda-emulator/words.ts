/** CUresult, as far as the suites speak of it. */
export const INVALID_VALUE = 1;
export const OUT_OF_MEMORY = 2;
export const INVALID_CONTEXT = 201;
export const INVALID_HANDLE = 400;
export const NOT_READY = 600;
export const ILLEGAL_ADDRESS = 700;

export const KIB = 1024;
export const MIB = 1024 * 1024;
