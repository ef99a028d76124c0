/**
 * Exits with 0 when the agent of $KVTIER_DATA_DIR says that it is ready (GET /readyz, which needs no token), else with 1 and a reason.
 * The address comes from agent.json, so it also holds for port 0.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

try {
  const { doors, tls } = JSON.parse(readFileSync(join(process.env.KVTIER_DATA_DIR ?? '.kvtier', 'agent.json'), 'utf8'));
  const { host, port } = doors.http;
  const reached = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  const answer = await fetch(`${tls === true ? 'https' : 'http'}://${reached.includes(':') ? `[${reached}]` : reached}:${port}/readyz`, {
    signal: AbortSignal.timeout(2500),
    // Nothing secret goes there: the question is whether this machine's own agent answers.
    tls: { rejectUnauthorized: false },
  });
  console.log(`readyz: ${answer.status}`);
  process.exitCode = answer.ok ? 0 : 1;
} catch (error) {
  console.log(`Cannot ask the agent whether it is ready: ${error.message}`);
  process.exitCode = 1;
}
