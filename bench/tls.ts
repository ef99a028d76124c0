/**
 * `bun run bench:tls`: what TLS costs on RESP: the agent with it beside the agent without, both in one call by turns, medians. The client is
 * this process, which has its part of the encryption to do. (redis-benchmark would not do: with --tls it waits some 40 ms in each SET
 * above 16 KiB, for an acknowledgement, before redis-server too.)
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { startAgent } from '#testsupport/agent.ts';
import { ByteClient, pattern } from '#testsupport/byte-client.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { alternate, median } from './lib/stats.ts';

const MiB = 1024 ** 2;
const CONNECTIONS = 4;
const flags = parseFlags('bench:tls');
const rounds = flags.smoke ? 1 : 5;
const bytesPerRun = (flags.smoke ? 16 : 256) * MiB;

const folder = mkdtempSync(join(tmpdir(), 'kvtier-bench-tls-'));
const cert = join(folder, 'cert.pem');
const key = join(folder, 'key.pem');
const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];
const subject = ['-subj', '/CN=kvtier', '-addext', 'subjectAltName=IP:127.0.0.1'];
execFileSync('openssl', ['req', '-x509', ...curve, '-nodes', '-days', '2', ...subject, '-keyout', key, '-out', cert], { stdio: 'ignore' });

function connectTo(port: number, tls: boolean): Promise<ByteClient> {
  if (!tls) return ByteClient.connect({ host: '127.0.0.1', port });
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port, ca: readFileSync(cert) }, () => resolve(new ByteClient(socket)));
    socket.once('error', reject);
  });
}

/** GB/s (10^9) over four connections, each with one command at a time. */
async function measure(port: number, test: 'SET' | 'GET', run: { readonly sizeBytes: number; readonly tls: boolean }): Promise<number> {
  const clients = await Promise.all(Array.from({ length: CONNECTIONS }, () => connectTo(port, run.tls)));
  const value = pattern(run.sizeBytes, 1);
  const requests = Math.max(2, Math.round(bytesPerRun / run.sizeBytes / CONNECTIONS));
  const startedAt = performance.now();
  await Promise.all(
    clients.map(async (client, id) => {
      for (let request = 0; request < requests; request += 1) {
        const name = `${id}-${request % 8}`;
        await (test === 'SET' ? client.send('SET', name, value) : client.send('GET', name));
      }
    }),
  );
  const seconds = (performance.now() - startedAt) / 1000;
  for (const client of clients) client.destroy();
  return (requests * CONNECTIONS * run.sizeBytes) / 1e9 / seconds;
}

const sizes = ['--ram', '256MiB', '--ssd', 'off', '--log-level', 'warn'];
const plain = await startAgent({ flags: sizes });
const secure = await startAgent({ flags: [...sizes, '--tls-cert', cert, '--tls-key', key] });
const cases: BenchCase[] = [];
try {
  for (const sizeBytes of [MiB / 16, MiB, 4 * MiB].slice(0, flags.smoke ? 2 : 3)) {
    for (const test of ['SET', 'GET'] as const) {
      const run = { sizeBytes };
      for (const agent of [plain, secure]) await measure(agent.resp.port, 'SET', { ...run, tls: agent === secure });
      const { ours, peer } = await alternate(rounds, {
        ours: () => measure(secure.resp.port, test, { ...run, tls: true }),
        peer: () => measure(plain.resp.port, test, { ...run, tls: false }),
      });
      const name = `${test} ${sizeBytes / 1024} KiB, 4 conn`;
      cases.push(compare({ case: name, unit: 'GB/s', better: 'higher', ours: median(ours), peer: median(peer), peerName: 'without TLS' }));
    }
  }
} finally {
  await plain.stop();
  await secure.stop();
  rmSync(folder, { recursive: true });
}
publish('bench:tls', flags, cases);
