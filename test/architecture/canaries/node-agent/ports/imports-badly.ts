import { wrong } from './imports-badly.ts'; // canary: no-cycle no-self-import
import { declares } from './breaks-house-rules.ts'; // canary: no-duplicates
import { floats } from './breaks-house-rules.ts';
import { Shape } from './shape.ts'; // canary: consistent-type-imports

export const mine: unknown = [wrong, declares, floats];
export type Mine = Shape;
