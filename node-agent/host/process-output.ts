/**
 * What the process prints to. A stream that takes nothing (a log on a full disk, a reader that went) costs text, and never the
 * process: what it did not take is counted, and once it takes text again, text arrives again.
 */
export class ProcessOutput {
  readonly #stream: NodeJS.WriteStream;
  #lostWrites = 0;
  #failure: Error | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
    // A stream without a listener throws; counting is done where the write ends, which is told each time.
    stream.on('error', (error: Error) => void (this.#failure = error));
  }

  get isTerminal(): boolean {
    return this.#stream.isTTY === true;
  }

  write(text: string): void {
    this.#last = new Promise((resolve) => {
      this.#stream.write(text, (error) => {
        if (error !== undefined && error !== null) {
          this.#lostWrites += 1;
          this.#failure = error;
        }
        resolve();
      });
    });
  }

  lostWrites(): number {
    return this.#lostWrites;
  }

  /** Resolves when all text has left or is lost, with why the last of it was lost. Waits as long as a reader takes nothing. */
  async settled(): Promise<Error | undefined> {
    await this.#last;
    return this.#failure;
  }
}
