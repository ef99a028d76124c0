export * from './is-too-long-a-file.ts'; // canary: no-barrel-file
