import { one } from './imports-itself-in-a-circle.ts'; // canary: no-cycle

export const two = (): number => one();
