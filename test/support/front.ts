/** Starts the front as a process of its own, for tests of connections that outlive their agent. */
import { spawn } from 'node:child_process';

export interface RunningFront {
  readonly address: { readonly host: string; readonly port: number };
  /** For the agent's --resp-front. */
  readonly socketPath: string;
  output(): string;
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>;
}

const main = new URL('../../node-agent/main.ts', import.meta.url).pathname;

/** `launcher`: a command that runs it. */
export async function startFront(folder: string, { launcher = [] }: { readonly launcher?: readonly string[] } = {}): Promise<RunningFront> {
  const socketPath = `${folder}/front.sock`;
  const args = [main, 'front', '--data-dir', folder, '--resp', '127.0.0.1:0', '--resp-front', socketPath, '--ram', '64MiB', '--ssd', 'off'];
  const [program = '', ...words] = [...launcher, process.execPath, ...args];
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] });
  let printed = '';
  const port = Promise.withResolvers<number>();
  const onText = (chunk: Buffer): void => {
    printed += chunk.toString();
    const found = /Front on [\d.]+:(\d+)/.exec(printed)?.[1];
    if (found !== undefined) port.resolve(Number(found));
  };
  child.stdout.on('data', onText);
  child.stderr.on('data', onText);
  const exited = new Promise<number | null>((resolve) => void child.on('exit', (code) => resolve(code)));
  void exited.then(() => port.reject(new Error(`The front ended:\n${printed}`)));
  return {
    address: { host: '127.0.0.1', port: await port.promise },
    socketPath,
    output: () => printed,
    stop() {
      child.kill('SIGTERM');
      return exited;
    },
  };
}
