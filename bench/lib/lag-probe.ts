/** How late the event loop of a running agent gets: while it works, and while it is idle on a machine that is as busy. */
import { spawn } from 'node:child_process';
import type { RunningAgent } from '#testsupport/agent.ts';

export async function metric(agent: RunningAgent, name: string): Promise<number> {
  const text = await agent.client.metrics();
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `));
  if (line === undefined) throw new Error(`The agent has no metric ${name}`);
  return Number(line.slice(name.length + 1));
}

/** p99 of the agent's own timer over its last 10 s. */
export const lagMs = async (agent: RunningAgent): Promise<number> =>
  1000 * (await metric(agent, 'kvtier_event_loop_lag_seconds{quantile="0.99"}'));

/** Cores kept busy by the agent, and by the client. */
export interface Load {
  readonly agentCores: number;
  readonly clientCores: number;
}

/** The idle agent's lag while others burn: the agent's share below normal priority, as its threads run, the client's at it. */
export async function lagBesideBurners(agent: RunningAgent, load: Load, phaseMs: number): Promise<number> {
  const burners = [
    { cores: load.agentCores, nice: 5 },
    { cores: load.clientCores, nice: 0 },
  ].flatMap(({ cores, nice }) => {
    const count = Math.ceil(cores);
    return Array.from({ length: count }, () =>
      spawn(process.execPath, [new URL('./burn.ts', import.meta.url).pathname, String(cores / count), String(nice)], {
        stdio: 'ignore',
      }),
    );
  });
  await Bun.sleep(phaseMs);
  const lag = await lagMs(agent);
  for (const burner of burners) burner.kill('SIGKILL');
  return lag;
}
