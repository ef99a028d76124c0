/** The settings of the HBM tier: how its share and its devices are spelled, and which of them cannot be together. */
import * as z from 'zod';
import { MiB, formatBytes, parseBytes } from '#core/bytes.ts';
import type { AgentConfig } from './agent-config.ts';
import type { KnobKey, KnobValues } from './knobs.ts';

/** Smallest share of a device: a few chunks of a MiB and their slabs. */
export const MIN_HBM_BYTES = 16 * MiB;
const MAX_HBM_BYTES = 2 ** 50;
/** More than any machine has; bounds what a list may be. */
const MAX_DEVICES = 64;

/** `0` by the driver's order, or `GPU-` and a UUID. */
export type DeviceName = number | string;

/** Undefined where the text is neither an ordinal nor the UUID of a whole device. */
function parseDevice(text: string): DeviceName | undefined {
  if (/^\d{1,2}$/.test(text)) return Number(text);
  return /^GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text) ? `GPU-${text.slice(4).toLowerCase()}` : undefined;
}

/** `auto`, `off`, a size for each device, or a list of one size a device. */
export function hbmShare(): z.ZodType<'auto' | 'off' | readonly number[]> {
  const wanted = 'a size such as 8GiB, a list of one size a device, auto or off is wanted';
  const given = z.union([z.string(), z.number(), z.array(z.union([z.string(), z.number()]))], { error: wanted });
  return given.transform((raw, context): 'auto' | 'off' | readonly number[] => {
    const items = (Array.isArray(raw) ? raw : String(raw).split(',')).map((item) => String(item).trim());
    const word = items.length === 1 ? items[0]?.toLowerCase() : undefined;
    if (word === 'auto' || word === 'off') return word;
    const sizes = items.map((item) => parseBytes(item));
    if (items.length === 0 || items.length > MAX_DEVICES || sizes.some((size) => size === undefined)) {
      context.addIssue({ code: 'custom', message: wanted });
      return z.NEVER;
    }
    const known = sizes.filter((size) => size !== undefined);
    if (known.every((size) => size >= MIN_HBM_BYTES && size <= MAX_HBM_BYTES)) return known;
    context.addIssue({ code: 'custom', message: `${formatBytes(MIN_HBM_BYTES)} to ${formatBytes(MAX_HBM_BYTES)} a device is allowed` });
    return z.NEVER;
  });
}

/** Ordinals and UUIDs; a variable separates them by commas. */
export function deviceNames(): z.ZodType<readonly DeviceName[]> {
  const wanted = 'device numbers such as 0,1, or UUIDs such as GPU-12345678-1234-1234-1234-123456789abc, are wanted';
  const given = z.union([z.string(), z.number(), z.array(z.union([z.string(), z.number()]))], { error: wanted });
  return given.transform((raw, context): readonly DeviceName[] => {
    const items = (Array.isArray(raw) ? raw : [raw]).flatMap((item) => String(item).split(',')).map((item) => item.trim());
    const names = items.map(parseDevice);
    const known = names.filter((name) => name !== undefined);
    if (known.length === names.length && known.length > 0 && known.length <= MAX_DEVICES) return known;
    context.addIssue({
      code: 'custom',
      message: items.some((item) => /^MIG-/i.test(item)) ? `${wanted}; a slice of a device (MIG) holds no pool` : wanted,
    });
    return z.NEVER;
  });
}

/** Shown in place of the values. */
export function formatShare(share: KnobValues['hbm.size']): string {
  return typeof share === 'string' ? share : share.map(formatBytes).join(', ');
}

interface Checks {
  readonly problems: string[];
  /** `--hbm 8 GiB`: how a value was named and what it is. */
  readonly named: (key: KnobKey, value: string) => string;
  readonly absolute: (path: string) => string;
}

/** The section as the agent uses it. What cannot be together is appended to `problems`. */
export function hbmSection(values: KnobValues, checks: Checks): AgentConfig['hbm'] {
  const share = values['hbm.size'];
  const devices = values['hbm.devices'] ?? [];
  const path = values['hbm.driverPath'];
  if (typeof share === 'string') idleSettings(values, share, checks);
  else fitTogether(share, devices, checks);
  if (path !== undefined && values['hbm.driver'] === 'emulated')
    checks.problems.push(
      `${checks.named('hbm.driver', 'emulated')} and ${checks.named('hbm.driverPath', path)} contradict each other: the emulator is no file of yours; drop one`,
    );
  return {
    share: typeof share === 'string' ? share : 'sizes',
    sizesBytes: typeof share === 'string' ? [] : share,
    // One size a device says which devices: the first ones.
    devices: devices.length === 0 && typeof share !== 'string' && share.length > 1 ? share.map((_, index) => index) : devices,
    required: values['hbm.required'],
    driver: values['hbm.driver'],
    driverPath: path === undefined || !path.includes('/') ? path : checks.absolute(path),
    promoteHits: values['hbm.promoteHits'],
    promoteWindowMs: values['hbm.promoteWindow'],
    policy: values['hbm.policy'],
  };
}

/** Without a share no device is touched, so what else is said of devices would do nothing. */
function idleSettings(values: KnobValues, share: 'auto' | 'off', { named, problems }: Checks): void {
  const size = named('hbm.size', share);
  const remedy = share === 'auto' ? 'give --hbm a size, such as --hbm 8GiB' : 'drop one';
  const idle = [
    values['hbm.devices'] === undefined ? undefined : named('hbm.devices', values['hbm.devices'].join(',')),
    values['hbm.required'] ? named('hbm.required', 'true') : undefined,
    values['hbm.driver'] === 'emulated' ? named('hbm.driver', 'emulated') : undefined,
    values['hbm.driverPath'] === undefined ? undefined : named('hbm.driverPath', values['hbm.driverPath']),
  ].filter((setting) => setting !== undefined);
  for (const setting of idle) problems.push(`${setting} is given, but ${size} makes no pool on any device: ${remedy}`);
}

function fitTogether(sizes: readonly number[], devices: readonly DeviceName[], { named, problems }: Checks): void {
  const twice = devices.find((name, index) => devices.indexOf(name) !== index);
  if (twice !== undefined) problems.push(`${named('hbm.devices', devices.join(','))} names device ${twice} twice`);
  if (sizes.length > 1 && devices.length > 0 && sizes.length !== devices.length)
    problems.push(
      `${named('hbm.size', formatShare(sizes))} is ${sizes.length} sizes for ${devices.length} devices (${named('hbm.devices', devices.join(','))}): give one size for all, or one for each`,
    );
}
