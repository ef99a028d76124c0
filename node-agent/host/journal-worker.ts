/** The thread behind journal-files.ts: one small file operation at a time, blocked in the kernel, while the main thread waits so long. */
import * as fs from 'node:fs';
import { dirname } from 'node:path';
import { JOURNAL_OPS, openChannel } from './journal-channel.ts';

declare const self: Worker;

const textDecoder = new TextDecoder();
const EIO = 5;

self.onmessage = (event: MessageEvent<SharedArrayBuffer>): void => {
  self.onmessage = null;
  const channel = openChannel(event.data);
  const { control, sizes, data } = channel;
  const text = (): string => textDecoder.decode(data.slice(0, control[channel.length]));
  const fd = (): number => control[channel.fd] as number;
  const operations: Readonly<Record<number, () => void>> = {
    [JOURNAL_OPS.open]: () => {
      const opened = fs.openSync(text(), 'a+', 0o600);
      control[channel.fd] = opened;
      sizes[0] = fs.fstatSync(opened).size;
    },
    [JOURNAL_OPS.create]: () => void (control[channel.fd] = fs.openSync(text(), 'w', 0o600)),
    [JOURNAL_OPS.write]: () => {
      const length = control[channel.length] as number;
      for (let offset = 0; offset < length;) offset += fs.writeSync(fd(), data, offset, length - offset);
    },
    [JOURNAL_OPS.truncate]: () => fs.ftruncateSync(fd(), sizes[0]),
    [JOURNAL_OPS.discard]: () => fs.closeSync(fd()),
    [JOURNAL_OPS.replace]: () => replace(fd(), text()),
  };
  self.postMessage('ready');
  for (let seen = 0; ; control[channel.answered] = seen, Atomics.notify(control, channel.answered)) {
    while (Atomics.load(control, channel.asked) === seen) Atomics.wait(control, channel.asked, seen);
    seen = Atomics.load(control, channel.asked);
    const op = control[channel.op] as number;
    if (op === JOURNAL_OPS.end) break;
    control[channel.errno] = 0;
    try {
      operations[op]?.();
    } catch (problem) {
      control[channel.errno] = Math.abs((problem as { errno?: number }).errno ?? EIO);
    }
  }
  self.postMessage('stopped');
};

function replace(temporaryFd: number, path: string): void {
  try {
    fs.fsyncSync(temporaryFd);
  } finally {
    fs.closeSync(temporaryFd);
  }
  fs.renameSync(`${path}.tmp`, path);
  const folder = fs.openSync(dirname(path), 'r');
  try {
    fs.fsyncSync(folder);
  } finally {
    fs.closeSync(folder);
  }
}
