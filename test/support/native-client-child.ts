/**
 * A client of the native door that is to be killed: `SOCKET leases|store|load|reserve`. It says READY when it holds what it is to hold, and
 * goes on until it is killed.
 */
import { NativeGuest, keysOf, spansOf, storeChunks } from './native-guest.ts';

const [socket = '', what = ''] = process.argv.slice(2);
const COUNT = 16;
const SIZE_BYTES = 512 * 1024;

const guest = await NativeGuest.greet(socket);
const shared = await guest.share(COUNT * SIZE_BYTES);
const namespace = await guest.namespace({ model: 'killed' });
const keys = keysOf('k', COUNT);
await storeChunks(guest, shared, { namespace, keys, sizeBytes: SIZE_BYTES });
await guest.ask('LOOKUP', { namespace, flags: 0, keys });
for (const key of keys.slice(0, 4)) await guest.ask('OPEN', { namespace, key });
if (what === 'reserve') await guest.ask('RESERVE', { sizes: keys.map(() => SIZE_BYTES) });
await guest.ask('EVENTS', { kinds: 3 });
process.stdout.write('READY\n');
const spans = spansOf(COUNT, SIZE_BYTES);
for (let round = 0; what === 'store' || what === 'load'; round += 1) {
  const jobs = Array.from({ length: 8 }, (_, job) =>
    what === 'load'
      ? guest.ask('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys, spans })
      : storeChunks(guest, shared, { namespace, keys: keysOf(`s-${round}-${job}`, COUNT), sizeBytes: SIZE_BYTES, seed: round }),
  );
  await Promise.all(jobs);
}
await new Promise(() => {});
