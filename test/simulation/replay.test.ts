/** `bun run simulate` with the profile, seed and steps of a run of the lane is that run. */
import { spawnSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { SimWorld } from '#testsupport/sim-world.ts';
import { profiles, weatherOf } from './profiles.ts';

const STEPS = 600;

function simulate(...args: readonly string[]): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
  const program = new URL('run.ts', import.meta.url).pathname;
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { encoding: 'utf8', env: process.env });
  return { status, stdout, stderr };
}

it.each([
  ['kills', 3],
  ['small', 4],
  ['small', 17],
  ['small', 19],
] as const)('a run of the lane comes again by hand: %s, seed %d', async (profile, seed) => {
  const wanted = await SimWorld.run({ ...weatherOf(profile, seed), seed, steps: STEPS });
  const { status, stdout, stderr } = simulate(profile, '--seed', `${seed}`, '--steps', `${STEPS}`);
  expect(status, stderr).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ profile, ...wanted });
});

it('small has every admission with every policy within 50 seeds in a row', () => {
  const seen = Array.from({ length: 25 }, (_, turn) => weatherOf('small', 2 * turn + 1));
  expect(new Set(seen.map(({ admission, ramPolicy, ssdPolicy }) => `${admission} ${ramPolicy} ${ssdPolicy}`)).size).toBe(25);
  expect(seen.every((weather) => weather.kills === profiles.small.kills)).toBe(true);
});

it.each([[['smal', '--seed', '4']], [['small', '--sed', '4']], [['small', '--seed', 'four']], [['small', 'kills']]])(
  'what is misspelt is not simulated: %j',
  (args) => {
    const { status, stdout } = simulate(...args);
    expect(status).not.toBe(0);
    expect(stdout).toBe('');
  },
);
