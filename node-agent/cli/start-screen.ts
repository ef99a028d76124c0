/** What `kvtier serve` prints when it is ready: one screen. */
import { formatBytes } from '#core/bytes.ts';
import type { LoadedConfig } from '#config/load-config.ts';
import { formatAddress, isLoopback, type Address } from '#config/knob-types.ts';
import { localUrl } from './agent-file.ts';

export interface ScreenDevice {
  readonly name: string;
  readonly uuid: string;
  readonly kind: 'cuda' | 'emulated' | 'simulated';
  readonly sizeBytes: number;
}

export interface StartScreenInput {
  readonly version: string;
  readonly loaded: LoadedConfig;
  /** Doors as they listen, with the port that was given for 0. */
  readonly doors: {
    readonly http: Address;
    readonly resp: Address | undefined;
    readonly lm: Address | undefined;
    readonly socket?: string | undefined;
  };
  /** Pools on devices, as they were made. */
  readonly devices?: readonly ScreenDevice[];
  readonly readyMs: number;
  /** Sentences that a person must see: a folder is lost, O_DIRECT is refused. */
  readonly warnings?: readonly string[];
}

/** Ends with a newline; no line holds a secret. */
export function renderStartScreen(input: StartScreenInput): string {
  const { loaded, doors } = input;
  const { config } = loaded;
  const url = localUrl(doors.http, { tls: config.tls !== undefined });
  const rows: (readonly [string, string, string])[] = [
    [
      'RAM',
      formatBytes(config.ram.sizeBytes),
      `${whence(loaded, 'ram.size')}; in ${config.ram.shmDir}, chunks up to ${formatBytes(config.ram.maxChunkBytes)}`,
    ],
  ];
  if (config.ssd.folders.length === 0) rows.push(['SSD', 'off', whence(loaded, 'ssd.size')]);
  else if (config.ssd.folders.length === 1)
    rows.push(['SSD', formatBytes(config.ssd.sizeBytes), `${whence(loaded, 'ssd.size')}; in ${config.ssd.folders[0]?.path ?? ''}`]);
  else {
    rows.push(['SSD', formatBytes(config.ssd.sizeBytes), whence(loaded, 'ssd.size')]);
    for (const folder of config.ssd.folders) rows.push(['', formatBytes(folder.sizeBytes), folder.path]);
  }
  rows.push(...hbmRows(loaded, input.devices ?? []));
  rows.push(['HTTP', formatAddress(doors.http), access(doors.http, config.tokens)]);
  rows.push(doors.resp === undefined ? ['RESP', 'off', ''] : ['RESP', formatAddress(doors.resp), access(doors.resp, config.tokens)]);
  rows.push(doors.lm === undefined ? ['lm', 'off', lmIsOff(loaded)] : ['lm', formatAddress(doors.lm), access(doors.lm, NO_TOKENS)]);
  rows.push([
    'Socket',
    doors.socket ?? 'off',
    doors.socket === undefined ? loaded.because('socket.path').replace(/^off, /, '') : socketAccess(config.socket.mode),
  ]);
  rows.push(['Data', config.dataDir, '']);
  rows.push(['Stats', `${url}/v1/stats`, '']);
  const width = Math.max(...rows.filter(([, , note]) => note !== '').map(([, value]) => value.length));
  const lines = rows.map(([name, value, note]) => `  ${name.padEnd(6)}  ${value.padEnd(width)}  ${note}`.trimEnd());
  const warnings = (input.warnings ?? []).map((warning) => `  !  ${warning}`);
  return [
    `kvtier ${input.version}`,
    '',
    ...lines,
    ...(warnings.length === 0 ? [] : ['', ...warnings]),
    '',
    `ready in ${Math.round(input.readyMs)} ms`,
    '',
  ].join('\n');
}

/** One line where nothing is taken of any GPU, else one a device; a device that is none says so. */
function hbmRows(loaded: LoadedConfig, devices: readonly ScreenDevice[]): (readonly [string, string, string])[] {
  const { share } = loaded.config.hbm;
  if (share === 'auto') return [['HBM', 'off', 'engines have the GPUs to themselves; --hbm SIZE takes a share of them']];
  if (share === 'off') return [['HBM', 'off', whence(loaded, 'hbm.size')]];
  if (devices.length === 0) return [['HBM', 'off', `${whence(loaded, 'hbm.size')}, but no device gives it: see below`]];
  return devices.map(({ name, uuid, kind, sizeBytes }, index) => {
    const what = kind === 'cuda' ? `${name}, ${uuid}` : `${kind}: no GPU, host memory that behaves like one`;
    return [index === 0 ? 'HBM' : '', formatBytes(sizeBytes), index === 0 ? `${whence(loaded, 'hbm.size')}; ${what}` : what];
  });
}

/** Where a size came from. */
function whence(loaded: LoadedConfig, key: 'ram.size' | 'ssd.size' | 'hbm.size'): string {
  if (loaded.origin(key) === 'derived') return loaded.because(key);
  const source = loaded.describe().find((row) => row.key === key)?.source ?? '';
  return source === '' ? 'by default' : `by ${source}`;
}

/** lm:// has no authentication, whatever the other doors want. */
const NO_TOKENS = { admin: undefined, read: undefined } as const;

/** Nobody turned it off: says why it is. */
function lmIsOff(loaded: LoadedConfig): string {
  return loaded.because('lm.listen').replace(/^off, /, '');
}

function socketAccess(mode: number): string {
  return (mode & 0o066) === 0 ? 'this user only' : (mode & 0o006) === 0 ? 'this user and the group' : 'every user of this machine';
}

function access(address: Address, tokens: { readonly admin: string | undefined; readonly read: string | undefined }): string {
  const reach = isLoopback(address.host) ? 'this machine only' : 'reachable from elsewhere';
  if (tokens.admin === undefined) return `${reach}, no token`;
  return `${reach}, with ${tokens.read === undefined ? 'a token' : 'an admin and a read token'}`;
}
