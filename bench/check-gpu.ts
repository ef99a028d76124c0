/**
 * `bun run check:gpu [--driver emulated|PATH] [--smoke] [--json FILE] [--seed N]`: whether kvtier works on the card of this machine, and how
 * fast. The contract of DeviceMemory that the tests run, copies with fresh data, a second process, a card that is full; then bandwidth,
 * pinning, what a context takes, polls. Needs Bun and the NVIDIA driver, and no installed package.
 *
 * Exit codes: 0 everything held, whatever the speed; 1 something did not; 64 wrong flags; 77 there is nothing to check, said in one line (the
 * code by which test harnesses know what was skipped). Everything that comes of the emulated driver says so, line by line.
 */
import { MiB } from '#core/bytes.ts';
import type { CudaMemory } from '#cuda/open-cuda-memory.ts';
import type { Device } from '#ports/device-memory.ts';
import { shareWithSecondProcess } from '#testsupport/second-process.ts';
import { parseFlags } from './lib/flags.ts';
import { check, checkContract, checkCopies, checkFull, type Check } from './lib/gpu-checks.ts';
import { measureBandwidth, measureContext, measurePinning, measurePoll, type Measured } from './lib/gpu-measures.ts';
import { describeGpu, findGpu, type GpuSubject } from './lib/gpu-subject.ts';
import { publishFull, type BenchCase } from './lib/report.ts';

const EXIT_SKIPPED = 77;
const IPC_BYTES = 3 * MiB + 5;

const argv = process.argv.slice(2);
const at = argv.indexOf('--driver');
const driver = at < 0 ? undefined : argv[at + 1];
const flags = parseFlags('check:gpu', driver === undefined ? argv : argv.toSpliced(at, 2), '[--driver emulated|PATH] ');

const checks: Check[] = [];
const cases: BenchCase[] = [];
const notes: string[] = [];

interface Subject {
  readonly gpu: GpuSubject;
  readonly memory: CudaMemory;
  readonly device: Device;
}

/** `emulated: ` where it is: before every line, and before every case in the file. */
let label = '';

async function tell(name: string, run: () => Promise<string | void>): Promise<void> {
  report(await check(name, run));
}

function report(done: Check): void {
  checks.push(done);
  console.log(`${label}${done.outcome}: ${done.name}${done.detail === undefined ? '' : `: ${done.detail}`}`);
}

async function hold({ gpu, memory, device }: Subject): Promise<void> {
  await tell('copies of many sizes in every direction, aligned to nothing', () => checkCopies(memory, device, flags));
  await tell('a second process opens an allocation, reads it and writes it', () =>
    shareWithSecondProcess(memory, device, { driverPath: gpu.driverPath, environment: gpu.environment, sizeBytes: IPC_BYTES }),
  );
  await tell('a card that is full refuses clearly and goes on', () => checkFull(memory, device));
}

async function measureAll({ gpu, memory, device }: Subject): Promise<void> {
  const measures: readonly (readonly [string, () => Promise<Measured>])[] = [
    ['bandwidth', () => measureBandwidth(memory, device, flags)],
    ['pinning', () => measurePinning(memory, flags)],
    ['context', () => measureContext(gpu, device)],
    ['poll', () => measurePoll(memory, device, flags)],
  ];
  for (const [name, measure] of measures) {
    await tell(`the measuring of ${name} comes to its end`, async () => {
      const measured = await measure();
      cases.push(...measured.cases.map((row) => ({ ...row, case: `${label}${row.case}` })));
      notes.push(...measured.notes.map((note) => `${label}${note}`));
    });
  }
}

/** Returns what the card is called. */
async function run(gpu: GpuSubject): Promise<string> {
  try {
    await checkContract(gpu, report);
    const memory = gpu.open(flags);
    const device = memory.open(memory.devices[0]?.ordinal ?? 0);
    if ('ok' in device) {
      await tell('the first device opens', () => Promise.reject(new Error(device.message)));
    } else {
      const subject = { gpu, memory, device };
      await hold(subject);
      await measureAll(subject);
    }
    await memory.close();
    await tell('nothing is left when all is closed', () => Promise.resolve(gpu.checkEnd(memory)));
    return describeGpu(memory);
  } finally {
    await gpu.dispose();
  }
}

const gpu = await findGpu(driver);
if ('reason' in gpu) {
  console.log(`check:gpu is skipped: ${gpu.reason}`);
  process.exit(EXIT_SKIPPED);
}
const emulated = gpu.kind === 'emulated';
if (emulated) {
  label = 'emulated: ';
  notes.push(`${label}there is no card: bandwidth, times and sizes are those of an emulated driver, and mean nothing of any card`);
}
const subject = await run(gpu);
const failed = checks.filter(({ outcome }) => outcome === 'failed').length;
publishFull('check:gpu', flags, { cases, subject, fields: { emulated, subject, held: failed === 0, checks, notes } });
for (const note of notes) console.log(note);
const passed = checks.filter(({ outcome }) => outcome === 'passed').length;
console.log(`${label}${passed} checks passed, ${failed} failed, ${checks.length - passed - failed} left out`);
process.exit(failed === 0 ? 0 : 1);
