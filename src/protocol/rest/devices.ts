/** Schemas of the GPUs that the agent keeps chunks on. Sizes in bytes; counters since the start of the process. */
import { z } from 'zod';
import { countSchema } from './text.ts';

export const deviceKinds = ['cuda', 'emulated', 'simulated'] as const;

const kindSchema = z
  .enum(deviceKinds)
  .meta({ description: 'cuda: a GPU. emulated, simulated: none, and every number about it says nothing of one' });

const directionSchema = z.object({
  bytes: countSchema,
  copies: countSchema,
  bytesPerSecond: z.number().meta({ description: 'Bytes by the time that the device spent on them; 0 before the first' }),
});

const movesSchema = z.object({
  promotions: countSchema,
  demotions: countSchema.meta({ description: 'Chunks that left for RAM, since nothing else had them' }),
  loads: countSchema.meta({ description: 'Copies to RAM because somebody asked, or for a demotion' }),
  checksumMismatches: countSchema,
});

const deviceSchema = z
  .object({
    ordinal: countSchema.meta({ description: "Number in the driver's order" }),
    name: z.string(),
    uuid: z.string(),
    pciBusId: z.string(),
    kind: kindSchema,
    computeCapability: z.string(),
    totalBytes: countSchema,
    state: z.enum(['ok', 'degraded', 'off']),
    reason: z.string(),
    pool: z.object({
      capacityBytes: countSchema,
      usedBytes: countSchema.meta({ description: 'Slots in use, rounded up to their class' }),
      fragmentedBytes: countSchema.meta({ description: 'Room in pieces that are in use, which only the tenants of the piece can take' }),
      pieces: countSchema,
      usedPieces: countSchema,
    }),
    moves: movesSchema.meta({ description: 'Of chunks, to and from this device' }),
    copies: z.object({
      toDevice: directionSchema,
      toHost: directionSchema,
      inFlight: countSchema,
      errors: countSchema,
      pageable: countSchema.meta({ description: 'Of memory that was not registered: through a bounce buffer' }),
      latencyMs: z.object({ p50: z.number(), p99: z.number() }),
    }),
  })
  .meta({ id: 'Device' });
export type DeviceRow = z.infer<typeof deviceSchema>;

export const devicesSchema = z
  .object({
    state: z.enum(['ok', 'degraded', 'off']),
    reasons: z.array(z.string()).meta({ description: 'Why there is no device, or less than was wanted, in a sentence each' }),
    driver: z.object({ kind: kindSchema, version: z.string() }).nullable().meta({ description: 'null where no driver is loaded' }),
    registration: z.object({
      state: z.enum(['none', 'running', 'done', 'failed']),
      bytes: countSchema.meta({ description: 'Of RAM arenas that devices reach directly' }),
      elapsedMs: z.number(),
    }),
    promotions: countSchema,
    demotions: countSchema,
    loads: countSchema.meta({ description: 'Copies to RAM because somebody asked' }),
    checksumMismatches: countSchema,
    exports: countSchema.meta({ description: 'Chunks that local clients read on the device at this moment' }),
    devices: z.array(deviceSchema),
  })
  .meta({ id: 'Devices' });
export type Devices = z.infer<typeof devicesSchema>;
