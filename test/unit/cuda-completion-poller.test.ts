/** Turns of the completion poller: what one of them takes, and who is asked. */
import { expect, test } from 'vitest';
import { CompletionPoller, type Polled } from '#cuda/completion-poller.ts';

/** Has `ready` copies that are done, and as many more each time that the loop has had a turn. */
class Source implements Polled {
  lively = 1;
  readonly stuck = 0;
  taken = 0;
  #ready: number;

  constructor(ready: number) {
    this.#ready = ready;
  }

  poll(budget: number): number {
    const done = Math.min(budget, this.#ready);
    this.#ready -= done;
    this.taken += done;
    return done;
  }

  refill(ready: number): void {
    this.#ready = ready;
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a turn lets the event loop go on after 64 copies, with more of them done', async () => {
  const poller = new CompletionPoller();
  const source = new Source(1000);
  poller.add(source);
  poller.wake();
  await turn();
  expect([poller.turns, source.taken]).toEqual([1, 64]);
  source.lively = 0;
});

test('a device that always has more done than a turn takes does not keep another waiting', async () => {
  const poller = new CompletionPoller();
  const [first, second] = [new Source(1000), new Source(1)];
  for (const source of [first, second]) poller.add(source);
  poller.wake();
  for (let at = 0; at < 3; at += 1) {
    await turn();
    first.refill(1000);
  }
  expect([first.taken > 64, second.taken]).toEqual([true, 1]);
  for (const source of [first, second]) source.lively = 0;
});

test('what is removed is not asked any more, and a poller with nothing in flight stops', async () => {
  const poller = new CompletionPoller();
  const [gone, idle] = [new Source(5), new Source(0)];
  for (const source of [gone, idle]) poller.add(source);
  poller.remove(gone);
  poller.wake();
  await turn();
  idle.lively = 0;
  await turn();
  const { turns } = poller;
  for (let at = 0; at < 5; at += 1) await turn();
  expect([gone.taken, poller.turns]).toEqual([0, turns]);
});
