/** The thread behind readiness.ts: waits in the epoll set that the main thread fills, and says which entries became readable. */
import { Epoll } from './epoll.ts';

declare const self: Worker;

self.onmessage = (event: MessageEvent<{ readonly epollFd: number; readonly stopId: number }>): void => {
  self.onmessage = null;
  const { epollFd, stopId } = event.data;
  const epoll = new Epoll(epollFd);
  let stopped = false;
  while (!stopped) {
    const ready: number[] = [];
    epoll.wait(-1, (id) => {
      if (id === stopId) stopped = true;
      else ready.push(id);
    });
    if (ready.length > 0) self.postMessage(ready);
  }
  self.postMessage('stopped');
};
