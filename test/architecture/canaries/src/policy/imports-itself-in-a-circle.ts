import { two } from './imports-itself-in-a-circle-back.ts'; // canary: no-cycle

export const one = (): number => two();
