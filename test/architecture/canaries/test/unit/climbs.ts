import { lanes } from '../support/lanes.ts'; // canary: no-restricted-imports

export const wrong: unknown = lanes;
