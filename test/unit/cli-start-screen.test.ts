import { describe, expect, it } from 'vitest';
import { renderStartScreen } from '#cli/start-screen.ts';
import type { StartScreenInput } from '#cli/start-screen.ts';
import { createCliHarness } from '#testsupport/cli-harness.ts';

async function screen(argv: readonly string[], extra: Pick<StartScreenInput, 'warnings' | 'devices'> = {}): Promise<string> {
  const cli = createCliHarness();
  expect((await cli.run('serve', ...argv)).err).toBe('');
  const [loaded] = cli.served;
  if (loaded === undefined) throw new Error('serve was not called');
  const { resp, lm } = loaded.config;
  return renderStartScreen({
    version: '0.1.0',
    loaded,
    readyMs: 152.6,
    doors: {
      http: { ...loaded.config.http.listen, port: 7600 },
      resp: resp.listen && { ...resp.listen, port: 41_234 },
      lm: lm.listen,
      socket: loaded.config.socket.path,
    },
    ...extra,
  });
}

describe('renderStartScreen', () => {
  it('shows version, tiers with where their sizes came from, doors with their real ports, stats and time', async () => {
    expect(await screen(['--resp', '127.0.0.1:0'])).toBe(`kvtier 0.1.0

  RAM     4 GiB                    the default of 4 GiB; memory is 64 GiB of the machine; in /dev/shm, chunks up to 128 MiB
  SSD     20 GiB                   the default of 20 GiB; in /srv/.kvtier/ssd
  HBM     off                      engines have the GPUs to themselves; --hbm SIZE takes a share of them
  HTTP    127.0.0.1:7600           this machine only, no token
  RESP    127.0.0.1:41234          this machine only, no token
  lm      127.0.0.1:7602           this machine only, no token
  Socket  /srv/.kvtier/agent.sock  this user only
  Data    /srv/.kvtier
  Stats   http://127.0.0.1:7600/v1/stats

ready in 153 ms
`);
  });

  it('names the flag that gave a size, every folder, and what a person must see', async () => {
    const text = await screen(
      ['--ram', '1GiB', '--ssd-dir', '/a:1GiB', '--ssd-dir', '/b:2GiB', '--token', 'hush-hush', '--http', '0.0.0.0:0'],
      { warnings: ['/b refuses O_DIRECT'] },
    );
    expect(text).toContain('by --ram; in /dev/shm');
    expect(text).toMatch(/SSD +3 GiB +the sum of the SSD folders\n +1 GiB +\/a\n +2 GiB +\/b\n/);
    expect(text).toContain('reachable from elsewhere, with a token');
    expect(text).toContain('http://127.0.0.1:7600/v1/stats');
    expect(text).toContain('  !  /b refuses O_DIRECT\n');
    expect(text).not.toContain('hush-hush');
    expect(text).toMatch(/lm +off +since a token is wanted and lm:\/\/ has none\n/);
  });

  it('shows a line for each pool on a device, and calls a device that is none emulated', async () => {
    const gpu = (index: number) => ({ name: 'NVIDIA H100', uuid: `GPU-${index}`, kind: 'cuda' as const, sizeBytes: 8 * 2 ** 30 });
    const text = await screen(['--hbm', '8GiB'], { devices: [gpu(0), gpu(1)] });
    expect(text).toMatch(/HBM +8 GiB +by --hbm; NVIDIA H100, GPU-0\n +8 GiB +NVIDIA H100, GPU-1\n/);
    const emulated = { name: 'card', uuid: 'GPU-2', kind: 'emulated' as const, sizeBytes: 2 ** 30 };
    const trial = await screen(['--hbm', '1GiB', '--hbm-driver', 'emulated'], { devices: [emulated] });
    expect(trial).toMatch(/HBM +1 GiB +by --hbm; emulated: no GPU, host memory that behaves like one\n/);
  });

  it('says that HBM is off because nobody gave a share, because somebody turned it off, or because no device gives it', async () => {
    expect(await screen([])).toMatch(/HBM +off +engines have the GPUs to themselves; --hbm SIZE takes a share of them\n/);
    expect(await screen(['--hbm', 'off'])).toMatch(/HBM +off +by --hbm\n/);
    const text = await screen(['--hbm', '1GiB'], { devices: [], warnings: ['hbm: no driver'] });
    expect(text).toMatch(/HBM +off +by --hbm, but no device gives it: see below\n/);
  });

  it('fits one screen and shows what is off', async () => {
    const text = await screen(['--resp', 'off', '--lm', 'off', '--ssd', 'off']);
    expect(text).toMatch(/lm +off\n/);
    expect(text).toMatch(/SSD +off +by --ssd\n/);
    expect(text).toMatch(/RESP +off\n/);
    expect(text.split('\n').length).toBeLessThanOrEqual(24);
  });
});
