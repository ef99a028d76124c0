/**
 * Deliberate bugs, one a mutant, and the weather in which the simulation must find each: what a suite is worth is what it finds.
 * `bun run test:mutants` applies them one by one to a copy of the sources and writes the table of docs/testing.md.
 */
import type { Mutant } from './mutant.ts';
import { nativeMutants } from './native-mutants.ts';

export const mutants: readonly Mutant[] = [
  {
    name: 'drop-a-tombstone',
    why: 'DEL writes no record although a file of the key may be on disk: the value is back after a crash',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/invalidator.ts',
        find: 'tombstones.forget(descriptor, key, state.nextGeneration());',
        replace: 'state.nextGeneration();',
      },
    ],
  },
  {
    name: 'ack-before-journal',
    why: 'An overwrite whose record the journal refused is acknowledged all the same: the old value is back after a crash',
    profile: 'journal',
    edits: [
      {
        file: 'node-agent/cache/puts.ts',
        find: "      this.#noteUnwritten(problem);\n      this.abort(ticket);\n      return 'failed';",
        replace: '      this.#noteUnwritten(problem);',
      },
    ],
  },
  {
    name: 'overwrite-without-record',
    why: 'An overwrite does not bury the file of the former value: it is back after a crash',
    profile: 'kills',
    edits: [{ file: 'node-agent/cache/puts.ts', find: 'this.#buryOld(ticket, existing, generation);', replace: '' }],
  },
  {
    name: 'no-sync-before-ack',
    why: 'An invalidation is acknowledged before the journal is synced and the marks of the folders know of it: a power cut undoes it',
    profile: 'power',
    edits: [
      { file: 'node-agent/cache/invalidator.ts', find: '      this.onDurable();\n', replace: '' },
      {
        file: 'node-agent/cache/tombstones.ts',
        find: 'this.#addInvalidation(record);\n    await this.#journal.sync();',
        replace: 'this.#addInvalidation(record);',
      },
    ],
  },
  {
    name: 'skip-a-checksum',
    why: 'The payload that was read from SSD is not compared with its checksum: torn and flipped bytes are served',
    profile: 'faults',
    edits: [
      {
        file: 'node-agent/tiers/ssd/ssd-tier.ts',
        find: "if (header.checksum !== checksum || checksum !== request.checksum) return 'payload checksum';",
        replace: '',
      },
    ],
  },
  {
    name: 'reuse-a-leased-slot',
    why: 'Eviction takes what is leased: EXISTS said yes, and GET within the lease is a miss',
    profile: 'full',
    edits: [
      {
        file: 'node-agent/cache/cache-state.ts',
        find: "return (this.index.ssdFolder(entry) >= 0 || this.has(entry, IN_HBM)) && !this.leases.covers(entry, 'ram');",
        replace: 'return true;',
      },
    ],
  },
  {
    name: 'reuse-a-slot-that-is-read',
    why: 'A read does not retain its slot: a value that is being sent is overwritten by another put',
    profile: 'full',
    edits: [
      { file: 'node-agent/cache/cache.ts', find: '    ram.retain(slot);\n    state.use(entry);', replace: '    state.use(entry);' },
      {
        file: 'node-agent/cache/cache.ts',
        find: '        ram.release(slot);\n        state.onRoom();',
        replace: '        state.onRoom();',
      },
    ],
  },
  {
    name: 'wrong-descriptor',
    why: 'The descriptor is remembered instead of asked for: after a reset its number is another connection, and bytes go there',
    profile: 'resets',
    edits: [
      {
        file: 'node-agent/servers/value-transfer.ts',
        find: 'return { fd: this.#socket.fd, header,',
        replace: 'return { fd: (this.#socket as { first?: typeof this.#socket.fd }).first ?? this.#socket.fd, header,',
      },
      {
        file: 'node-agent/servers/value-transfer.ts',
        find: '    this.#socket = socket;\n',
        replace: '    this.#socket = socket;\n    (socket as { first?: typeof socket.fd }).first = socket.fd;\n',
      },
      {
        file: 'node-agent/servers/resp/resp-connection.ts',
        find: '      if (this.#closed || this.#closing) return;\n      if (!(await',
        replace: '      if (!(await',
      },
    ],
  },
  {
    name: 'forget-a-generation',
    why: 'A row is taken for the chunk that it once was: a read that waited for SSD gives the value of another key',
    profile: 'small',
    edits: [
      {
        file: 'node-agent/cache/cache-state.ts',
        find: 'return this.index.isLive(ref.entry) && this.index.generation(ref.entry as EntryIndex) === ref.generation;',
        replace: 'return this.index.isLive(ref.entry);',
      },
    ],
  },
  {
    name: 'cross-tenant-lookup',
    why: "A tenant's token does not change how keys are read: all tenants share one namespace",
    profile: 'tenants',
    edits: [
      {
        file: 'node-agent/servers/resp/resp-connection.ts',
        find: 'new KeyParser(tenant === undefined ? {} : { tenant })',
        replace: 'new KeyParser()',
      },
    ],
  },
  {
    name: 'commit-after-abort',
    why: 'A value whose peer left in the middle is given back and kept: its slot is settled twice',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/servers/resp/resp-connection.ts',
        find: '      this.abort(reserved);\n      this.close();',
        replace: '      this.abort(reserved);\n      this.#keep(event, reserved, 0n);\n      this.close();',
      },
    ],
  },
  {
    name: 'commit-what-is-doomed',
    why: 'A put that began before an invalidation stores its value after it',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/puts.ts',
        find: '    if (ticket.doomed) {',
        replace: '    if (ticket.doomed && ticket.sizeBytes < 0) {',
      },
    ],
  },
  {
    name: 'lost-dirty-flag',
    why: 'A chunk that lost its file counts as clean: it is never written again, and a restart loses it',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/cache-state.ts',
        find: 'if (this.index.ramSlot(entry) >= 0) this.becomeDirty(entry);',
        replace: '',
      },
    ],
  },
  {
    name: 'wrong-reply-order',
    why: 'A large value is sent before the replies that wait in front of it',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/servers/resp/resp-connection.ts',
        find: '      await this.flushed();\n      if (this.#closed',
        replace: '      if (this.#closed',
      },
    ],
  },
  {
    name: 'double-free',
    why: 'A read gives its slot back twice',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/cache.ts',
        find: '        ram.release(slot);\n        state.onRoom();',
        replace: '        ram.release(slot);\n        ram.release(slot);\n        state.onRoom();',
      },
    ],
  },
  {
    name: 'leak-a-slot',
    why: 'A put that is aborted keeps its slot: RAM fills with nothing',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/puts.ts',
        find: 'if (this.#state.ram.release(ticket.slot)) this.#state.onRoom();',
        replace: '',
      },
    ],
  },
  {
    name: 'invalidations-end-at-restart',
    why: 'Files that are adopted at a start are not judged by the journal: what was invalidated is back',
    profile: 'kills',
    edits: [{ file: 'node-agent/cache/tombstones.ts', find: 'return this.#judge.isDead(facts, generation);', replace: 'return false;' }],
  },
  {
    name: 'ignore-expiry',
    why: 'A lookup does not ask whether the chunk has expired: it is served until the sweep comes by',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/expiry.ts',
        find: 'if (entry < 0 || !this.isOver(entry as EntryIndex)) return entry;',
        replace: 'if (entry < 0 || entry >= 0) return entry;',
      },
    ],
  },
  {
    name: 'expiry-ends-at-restart',
    why: 'A start takes in files whatever their expiry says: a short life becomes an endless one',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/expiry.ts',
        find: 'if (atMs === 0 || atMs > this.nowMs()) return atMs;',
        replace: 'if (atMs >= 0) return 0;',
      },
    ],
  },
  {
    name: 'quota-without-end',
    why: 'A tenant that is over its quota in RAM gets room all the same',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/cache/quotas.ts',
        find: 'return row.ramBytes + row.reservedRamBytes + sizeBytes <= row.ramLimit;',
        replace: 'return row.ramBytes + sizeBytes >= 0;',
      },
    ],
  },
  {
    name: 'evict-a-hard-pin',
    why: 'A hard pin does not hold the file on SSD: the chunk is evicted for space',
    profile: 'small',
    edits: [
      {
        file: 'node-agent/cache/ssd-writer.ts',
        find: 'return this.#state.index.leaseCount(entry) === 0 && !this.#state.has(entry, PINNED_HARD) && !this.isLoading(entry);',
        replace: 'return this.#state.index.leaseCount(entry) === 0 && !this.isLoading(entry);',
      },
      {
        file: 'node-agent/cache/pins.ts',
        find: "const hard = tier === 'ram' ? HELD_IN_RAM : PINNED_HARD;",
        replace: 'const hard = 0;',
      },
    ],
  },
  {
    name: 'bytes-of-a-borrowed-buffer',
    why: "Bytes that the transport takes back are still read when a command had to wait: a value has another's bytes",
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/servers/resp/resp-connection.ts',
        find: '    this.#socket.pause();\n    this.#parser.retain();',
        replace: '    this.#socket.pause();',
      },
    ],
  },
  {
    name: 'half-a-trailer',
    why: 'The parser is told of bytes of a value that it has finished, where the LF of its CRLF comes alone: the process ends',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/servers/value-transfer.ts',
        find: 'if (placedBytes < ticket.sizeBytes) this.#source',
        replace: 'this.#source',
      },
    ],
  },
  {
    name: 'kept-bytes-unchecked',
    why: 'What a former process left in RAM is served without a look at its checksum: damaged bytes are served',
    profile: 'keep',
    edits: [
      {
        file: 'node-agent/cache/ram-verifier.ts',
        find: 'const isRight = isSame && sum === index.checksum(entry);',
        replace: 'const isRight = isSame;',
      },
    ],
  },
  {
    name: 'kept-ram-missed-a-run',
    why: 'RAM that did not take part in a run is believed after it: what was deleted or overwritten in that run is back',
    profile: 'keep',
    edits: [
      {
        file: 'node-agent/cache/recovery.ts',
        find: 'else if (!(keptEpoch >= replay.highestEpoch && keptEpoch <= MAX_EPOCH))',
        replace: 'else if (keptEpoch < 0)',
      },
    ],
  },
  {
    name: 'record-of-a-loaded-chunk',
    why: 'A chunk that comes back from SSD into RAM gets no record: a restart finds it cold',
    profile: 'keep',
    edits: [
      {
        file: 'node-agent/cache/ssd-reader.ts',
        find: '    state.remember(entry);\n',
        replace: '',
      },
    ],
  },
  {
    name: 'promoted-unseen',
    why: 'A promotion is attached without another look: what was overwritten or deleted while it was copied is in HBM under the next chunk of its row',
    profile: 'hbm',
    edits: [
      {
        file: 'node-agent/cache/hbm-placement.ts',
        find: '    const isSame = state.isSame(ref);\n',
        replace: '    const isSame = index.isLive(ref.entry);\n',
      },
    ],
  },
  {
    name: 'hbm-slot-under-a-copy',
    why: 'A copy does not hold its slot in HBM: another chunk is copied there while the device is still at work on it',
    profile: 'hbm',
    edits: [
      {
        file: 'node-agent/tiers/hbm/hbm-tier.ts',
        find: '    this.retain(slot);\n    counters.inFlight += 1;\n',
        replace: '    counters.inFlight += 1;\n',
      },
      {
        file: 'node-agent/tiers/hbm/hbm-tier.ts',
        find: '    if (!outcome.ok && outcome.late !== undefined) void outcome.late.then(() => this.release(slot));\n    else this.release(slot);\n',
        replace: '',
      },
    ],
  },
  {
    name: 'promotion-lets-go-of-ram',
    why: 'A promotion does not hold its RAM slot: what is copied to HBM is overwritten by another put meanwhile',
    profile: 'hbm',
    edits: [
      {
        file: 'node-agent/cache/hbm-placement.ts',
        find: '    ram.retain(from);\n',
        replace: '',
      },
      {
        file: 'node-agent/cache/hbm-placement.ts',
        find: '    this.#state.ram.release(slot);\n',
        replace: '',
      },
    ],
  },
  {
    name: 'refused-object-leaves-the-former',
    why: 'A PUT that finds no room through the lm door leaves what was there: its client takes the former object for the new one',
    profile: 'doors',
    edits: [
      {
        file: 'node-agent/servers/lm/lm-connection.ts',
        find: '      this.#skipPayload();\n      this.#forgetFormer(parsed);',
        replace: '      this.#skipPayload();',
      },
    ],
  },
  {
    name: 'catalog-ack-before-commit',
    why: 'A batch of the catalog is acknowledged and committed with the next one: a kill between them loses rows that count as written',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/catalog/catalog-service.ts',
        find: '        database.apply(request.ask as CatalogBatch);',
        replace: '        if (this.later !== undefined) database.apply(this.later);\n        this.later = request.ask as CatalogBatch;',
      },
      {
        file: 'node-agent/catalog/catalog-service.ts',
        find: '  #database: CatalogDatabase | undefined;\n',
        replace: '  #database: CatalogDatabase | undefined;\n  later: CatalogBatch | undefined;\n',
      },
    ],
  },
  {
    name: 'failed-batch-is-acknowledged',
    why: 'A transaction of the catalog that SQLite refused counts as done: its rows are never written',
    profile: 'faults',
    edits: [
      {
        file: 'node-agent/catalog/catalog-service.ts',
        find: '        database.apply(request.ask as CatalogBatch);',
        replace:
          "        try {\n          database.apply(request.ask as CatalogBatch);\n        } catch (error) {\n          if ((error as CatalogFailure).kind !== 'full') throw error;\n        }",
      },
    ],
  },
  {
    name: 'compaction-drops-a-tombstone',
    why: 'A compaction of the journal leaves out the deletions whose files are not gone yet: what was deleted is back after a crash',
    profile: 'kills',
    edits: [{ file: 'node-agent/cache/tombstones.ts', find: '      ...this.#live.values(),\n', replace: '' }],
  },
  {
    name: 'compaction-in-two-writes',
    why: 'A compacted journal takes its place before its records are written: a kill between leaves a journal that vouches for nothing',
    profile: 'kills',
    edits: [
      {
        file: 'node-agent/catalog/journal.ts',
        find: '      this.#fileSystem.writeFileAtomic(this.path, whole);',
        replace:
          '      this.#fileSystem.writeFileAtomic(this.path, head.bytes);\n      const rest = this.#fileSystem.openAppend(this.path);\n      rest.append(bytes);\n      rest.close();',
      },
    ],
  },
  {
    name: 'compaction-without-sync',
    why: 'A compacted journal takes its place without a sync and counts as synced: a power cut undoes invalidations',
    profile: 'power',
    edits: [
      {
        file: 'node-agent/catalog/journal.ts',
        find: '      this.#fileSystem.writeFileAtomic(this.path, whole);',
        replace:
          '      const fresh = this.#fileSystem.openAppend(`${this.path}.tmp`);\n      fresh.truncate(0);\n      fresh.append(whole);\n      fresh.close();\n      this.#fileSystem.rename(`${this.path}.tmp`, this.path);',
      },
    ],
  },
  {
    name: 'start-forgets-the-clock',
    why: 'A start ignores the time in the journal: with a clock that was set back, what had expired is back',
    profile: 'clocks',
    edits: [
      {
        file: 'node-agent/cache/tombstones.ts',
        find: '        this.#clockMs = Math.max(this.#clockMs, Math.min(record.atMs, MAX_EXPIRES_AT_MS));\n',
        replace: '',
      },
    ],
  },
  {
    name: 'expiry-by-wall-time',
    why: 'Expiries are judged by the wall clock alone: set back, it gives all chunks that time on top',
    profile: 'clocks',
    edits: [
      {
        file: 'node-agent/cache/expiry-clock.ts',
        find: 'if (wallMs <= nowMs) return nowMs;',
        replace: 'if (wallMs <= nowMs) return wallMs;',
      },
    ],
  },
  {
    name: 'lifetime-of-a-clock-ahead',
    why: 'The journal does not learn of the time with a lifetime that is given: by a clock that was ahead, it lasts hours after a kill',
    profile: 'clocks',
    edits: [
      {
        file: 'node-agent/cache/expiry.ts',
        find: '    if (nowMs >= this.#host.tombstones.clockMs + CLOCK_STEP_MS) this.#noteClock(nowMs);\n',
        replace: '',
      },
    ],
  },
  {
    name: 'later-lifetime-of-a-clock-ahead',
    why: 'The same with a lifetime that a chunk gets later, by EXPIRE',
    profile: 'clocks',
    edits: [{ file: 'node-agent/cache/expiry.ts', find: '    if (atMs !== 0) this.#givenAtMs();\n', replace: '' }],
  },
  {
    name: 'slot-of-a-late-read',
    why: 'A read that the device has not answered gives its slot back at once: its bytes land in the value of another key',
    profile: 'stuck',
    edits: [
      {
        file: 'node-agent/cache/load-room.ts',
        find: '    void late.finally(() => {\n      this.giveBack(room);\n',
        replace: '    this.giveBack(room);\n    void late.finally(() => {\n',
      },
    ],
  },
  {
    name: 'file-of-a-late-write',
    why: 'A file that comes late is taken for that of the chunk, whatever became of the chunk meanwhile',
    profile: 'stuck',
    edits: [
      {
        file: 'node-agent/cache/ssd-writer.ts',
        find: 'if (done) state.ssd.unlink(folder.index, ref.generation, { sizeBytes, done: again });\n      else again();',
        replace: 'if (done && state.index.isLive(ref.entry)) state.attachSsd(ref.entry, folder.index);\n      again();',
      },
    ],
  },
  {
    name: 'key-of-a-late-write',
    why: 'The key of a write that the device has not answered is tracked no more: it is deleted without a record, and back after a crash',
    profile: 'stuck',
    edits: [
      {
        file: 'node-agent/cache/ssd-writer.ts',
        find: '    const again = (): void => {\n      finished();\n',
        replace: '    finished();\n    const again = (): void => {\n',
      },
    ],
  },
  {
    name: 'probe-never-ends',
    why: 'A probe counts as under way for ever: a folder that stalls again never comes back',
    profile: 'stuck',
    edits: [
      {
        file: 'node-agent/tiers/ssd/stall-probe.ts',
        find: 'if (now !== undefined) now.running = false;',
        replace: '',
      },
    ],
  },
  {
    name: 'stalled-is-lost',
    why: 'A folder that does not answer in time is given up with all that it has',
    profile: 'stuck',
    edits: [
      {
        file: 'node-agent/tiers/ssd/ssd-tier.ts',
        find: '    this.#probe.began(folder);\n',
        replace: "    this.#probe.began(folder);\n    this.loseFolder(folder, 'it does not answer');\n",
      },
    ],
  },
  {
    name: 'silence-is-damage',
    why: 'At a start, files that a device does not show in time go into quarantine',
    profile: 'stuck',
    edits: [
      {
        file: 'node-agent/cache/header-reader.ts',
        find: 'if (timeout === undefined) {',
        replace: 'if (timeout === undefined || batch.length > 0) {',
      },
    ],
  },
  {
    name: 'stop-waits-for-a-device',
    why: 'A stop waits for writes beyond its deadline: a device that hangs keeps the process',
    profile: 'stuck',
    edits: [
      {
        file: 'node-agent/cache/ssd-writer.ts',
        find: 'await Promise.race([work.then(() => this.#allWritten()), expired.promise]);',
        replace: 'await work.then(() => this.#allWritten());',
      },
    ],
  },
  {
    name: 'uncounted-drop',
    why: 'A chunk that leaves RAM before it is on SSD is not counted: nobody learns why it is missed',
    profile: 'counted',
    edits: [{ file: 'node-agent/cache/ram-evictor.ts', find: 'droppedDirtyChunks += 1;', replace: 'droppedDirtyChunks += 0;' }],
  },
  {
    name: 'uncounted-refusal',
    why: 'A read that finds no room in RAM is a miss like any other: nobody learns that the chunk is there',
    profile: 'counted',
    edits: [{ file: 'node-agent/cache/cache.ts', find: 'this.#state.counters.refusedLookups += 1;', replace: '' }],
  },
  ...nativeMutants,
];
