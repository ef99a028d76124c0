/** Kinds of weather, by name: what a seed decides on inside of each. Profile, seed and steps are all that makes a run. */
import type { SsdAdmission } from '#cache/cache-state.ts';
import { assert } from '#core/assert.ts';
import { KiB, MiB } from '#core/bytes.ts';
import { policyNames } from '#policy/create-policy.ts';
import type { PolicyName } from '#policy/create-policy.ts';
import type { SimWorldOptions } from '#testsupport/sim-world.ts';

export type Profile = Omit<SimWorldOptions, 'seed' | 'steps'>;

export const profiles = {
  /** Connections are reset, peers and disks stand still, the process is killed. Nothing is lost by that. */
  kills: { compactionBytes: 2 * KiB, kills: 3, resets: 5, delays: 3 },
  /** RAM that is always full, much of it leased, beside endless folders: what is missed is missed for a reason that is counted. */
  counted: {
    counted: true,
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    sizes: [100, 5000, 20 * KiB, 60 * KiB, 100 * KiB, 250 * KiB],
    kills: 1,
    resets: 2,
    delays: 3,
  },
  /** A RAM tier that is always full. */
  full: { ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, kills: 1, resets: 3, delays: 3 },
  /** Two folders that evict all the time; odd seeds by other policies, and with other admissions (`weatherOf`). */
  small: {
    compactionBytes: 2 * KiB,
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    ssdBytes: [600 * KiB, 400 * KiB],
    kills: 4,
    resets: 3,
    delays: 1,
  },
  /** Tenants with tokens, who spell their keys alike. */
  tenants: { tenants: ['red', 'blue'], clientCount: 6, keyCount: 12, kills: 2, resets: 5, delays: 3 },
  /** Devices fail and lie, files rot, disks are full. */
  faults: { compactionBytes: 3 * KiB, ramBytes: 1 * MiB, ssdBytes: [2 * MiB, 1 * MiB], kills: 3, resets: 3, delays: 5, faults: 10 },
  /** The journal cannot be written, for a while or for longer, and the process is killed often. */
  journal: { compactionBytes: 1 * KiB, kills: 8, delays: 10, faults: 25, faultKinds: ['journal', 'dataSpace'], keyCount: 12 },
  /** Clients of two tenants come and go while disks are slow: descriptors are used again and again. */
  resets: {
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    sizes: [100, 70_000, 90_000, 110_000],
    tenants: ['red', 'blue'],
    clientCount: 6,
    keyCount: 8,
    resets: 40,
    delays: 15,
  },
  /** Both doors, on a RAM tier that is full and a folder that evicts; tenants with tokens beside the door that knows none. */
  doors: {
    lm: true,
    tenants: ['red'],
    keyCount: 8,
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    ssdBytes: [1 * MiB],
    kills: 2,
    resets: 4,
    delays: 12,
  },
  /** The native door beside RESP, on a RAM tier that is full and a folder that evicts: clients die in the middle, memory is cut, devices hang. */
  native: {
    native: true,
    tenants: ['red'],
    keyCount: 6,
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    ssdBytes: [2 * MiB],
    kills: 1,
    resets: 2,
    delays: 6,
    hangs: 2,
    stops: 0.5,
  },
  /** RAM outlives the process, which is killed often; it comes back damaged, of another size, or after a run without it. */
  keep: { keep: true, lm: true, keyCount: 16, ramBytes: 2 * MiB, kills: 8, resets: 4, delays: 3, ssdBytes: [1 * MiB], checkEvery: 2 },
  /** The machine loses power. */
  power: { compactionBytes: 2 * KiB, powerCuts: 4, resets: 3, delays: 3 },
  /** The wall clock jumps, hours ahead and minutes back, and the process is killed. */
  clocks: { compactionBytes: 2 * KiB, jumps: 4, kills: 4, resets: 3, delays: 3 },
  /** Devices do not answer for longer than their deadline, some of what they were asked is done late, and the process ends meanwhile. */
  stuck: {
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    ssdBytes: [2 * MiB, 1 * MiB],
    hangs: 8,
    stops: 1.5,
    kills: 1.5,
    resets: 3,
    delays: 3,
  },
  /** Two small devices, RAM that is always full, folders that evict: chunks wander between three tiers while copies fail and devices are lost. */
  hbm: {
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    ssdBytes: [1 * MiB],
    hbmBytes: [1 * MiB, 1 * MiB],
    hbmPieceBytes: 512 * KiB,
    hbmLimits: { promoteHits: 1 },
    tenants: ['red'],
    keyCount: 4,
    deviceFaults: 3,
    kills: 2,
    resets: 3,
    delays: 3,
  },
  /** As `hbm`, with devices that do as they are told: leases are judged, and in the end nothing is dirty. */
  wander: {
    ramBytes: 1 * MiB,
    maxChunkBytes: 256 * KiB,
    hbmBytes: [2 * MiB],
    hbmPieceBytes: 1 * MiB,
    hbmLimits: { promoteHits: 1 },
    keyCount: 12,
    kills: 1,
    resets: 3,
    delays: 1,
  },
} as const satisfies Record<string, Profile>;

export type ProfileName = keyof typeof profiles;

const admissions = ['demote', 'through', 'idle', 'off', 'second-use'] as const satisfies readonly SsdAdmission[];

/**
 * What a run of this profile with this seed is: whoever starts one, in a lane or by hand, gets the same. Even seeds of `small` have what an
 * agent has that nobody configured; odd ones have every admission with every policy, as they count up.
 */
export function weatherOf(name: ProfileName, seed: number): Profile {
  assert(Number.isSafeInteger(seed) && seed >= 0, `Cannot make weather of seed ${seed}: want a whole number, 0 or more`);
  if (name !== 'small' || seed % 2 === 0) return profiles[name];
  const turn = (seed - 1) / 2;
  const policy = policyNames[Math.floor(turn / admissions.length) % policyNames.length] as PolicyName;
  return { ...profiles.small, admission: admissions[turn % admissions.length] as SsdAdmission, ramPolicy: policy, ssdPolicy: policy };
}
