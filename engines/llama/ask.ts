/** The engine's process and whoever asks it: one JSON object a line, in both directions. */

export interface Question {
  readonly prompt: string;
  /** Cuts the prompt to so many tokens. */
  readonly promptTokens?: number;
  /** Tokens to generate; default 8. */
  readonly generate?: number;
}

/** The first line of an engine that is ready. */
export interface Ready {
  readonly ready: true;
  readonly model: string;
  /** Of everything that makes equal tokens different KV. */
  readonly fingerprint: string;
  readonly build: string;
  readonly cpuVariant: string;
  readonly kvType: string;
  readonly parameterCount: number;
  readonly chunkBytes: number;
  readonly chunkTokens: number;
  /** From the start of the process, the file's hash included. */
  readonly openMs: number;
}

export interface Answer {
  readonly tokens: number;
  readonly restoredTokens: number;
  readonly foundChunks: number;
  readonly storedChunks: number;
  readonly stoppedBy: string;
  readonly tokenizeMs: number;
  readonly lookupMs: number;
  readonly restoreMs: number;
  readonly computeMs: number;
  /** From the question to the logits of the first token. */
  readonly ttftMs: number;
  /** SHA-256 of the logits behind the prompt, every bit of them. */
  readonly logitsSha256: string;
  readonly text: string;
}

export interface Failure {
  readonly error: string;
}
