import { describe, expect, it } from 'vitest';
import { renderStartScreen } from '#cli/start-screen.ts';
import { createCliHarness } from '#testsupport/cli-harness.ts';

async function screen(argv: readonly string[], extra: { readonly warnings?: readonly string[] } = {}): Promise<string> {
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
    },
    ...(extra.warnings === undefined ? {} : { warnings: extra.warnings }),
  });
}

describe('renderStartScreen', () => {
  it('shows version, tiers with where their sizes came from, doors with their real ports, stats and time', async () => {
    expect(await screen(['--resp', '127.0.0.1:0'])).toBe(`kvtier 0.1.0

  RAM    4 GiB            the default of 4 GiB; memory is 64 GiB of the machine; in /dev/shm, chunks up to 128 MiB
  SSD    20 GiB           the default of 20 GiB; in /srv/.kvtier/ssd
  HTTP   127.0.0.1:7600   this machine only, no token
  RESP   127.0.0.1:41234  this machine only, no token
  lm     127.0.0.1:7602   this machine only, no token
  Data   /srv/.kvtier
  Stats  http://127.0.0.1:7600/v1/stats

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

  it('fits one screen and shows what is off', async () => {
    const text = await screen(['--resp', 'off', '--lm', 'off', '--ssd', 'off']);
    expect(text).toMatch(/lm +off\n/);
    expect(text).toMatch(/SSD +off +by --ssd\n/);
    expect(text).toMatch(/RESP +off\n/);
    expect(text.split('\n').length).toBeLessThanOrEqual(24);
  });
});
