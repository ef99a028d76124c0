import { createApp } from '#api/app.ts'; // canary: no-restricted-imports

export const wrong: unknown = createApp;
