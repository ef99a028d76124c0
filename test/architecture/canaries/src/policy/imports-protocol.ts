import { parse } from '#protocol/resp/resp-parser.ts'; // canary: no-restricted-imports

export const wrong: unknown = parse;
