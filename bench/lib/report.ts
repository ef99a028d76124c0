import { writeFileSync } from 'node:fs';
import { describeCommit, describeMachine, loadAverage } from './machine.ts';
import type { BenchFlags } from './flags.ts';

/** One comparison. `ratio` above 1 means that ours is better, whichever way the unit runs. */
export interface BenchCase {
  readonly case: string;
  readonly unit: string;
  readonly ours: number;
  readonly peer: number;
  /** The program measured beside ours in the same run, or 'target'. */
  readonly peerName: string;
  readonly ratio: number;
  /** What bounds the number (memcpy, the device's own bandwidth), and how much of it ours is, in percent. */
  readonly roof?: { readonly name: string; readonly percent: number };
}

export interface BenchReport {
  readonly name: string;
  readonly commit: string;
  readonly bun: string;
  readonly machine: string;
  readonly loadAverage: number | undefined;
  readonly seed: number;
  readonly smoke: boolean;
  readonly cases: readonly BenchCase[];
}

/** What a program has beside its cases. */
export interface FullReport {
  readonly cases: readonly BenchCase[];
  /** What was measured, where the machine does not say it: behind the machine in the first line. */
  readonly subject?: string;
  /** Beside the cases in the file. */
  readonly fields?: Readonly<Record<string, unknown>>;
}

interface Measured {
  readonly case: string;
  readonly unit: string;
  /** 'lower' for times and sizes, 'higher' for rates. */
  readonly better: 'lower' | 'higher';
  readonly ours: number;
  readonly peer: number;
  readonly peerName: string;
  readonly roof?: { readonly name: string; readonly percent: number };
}

/** Works out the ratio; throws where it would say nothing (a zero or a number that is none). */
export function compare(measured: Measured): BenchCase {
  const { better, ...rest } = measured;
  const ratio = better === 'lower' ? measured.peer / measured.ours : measured.ours / measured.peer;
  if (!Number.isFinite(ratio))
    throw new Error(`Cannot compare ${measured.case}: ours ${measured.ours}, ${measured.peerName} ${measured.peer}`);
  return { ...rest, ratio };
}

/** Prints the table and, where asked, writes the JSON file. */
export function publish(name: string, flags: BenchFlags, cases: readonly BenchCase[]): BenchReport {
  return publishFull(name, flags, { cases });
}

export function publishFull(name: string, flags: BenchFlags, { cases, subject, fields }: FullReport): BenchReport {
  const report: BenchReport = {
    name,
    commit: describeCommit(),
    bun: Bun.version,
    machine: describeMachine(),
    loadAverage: loadAverage(),
    seed: flags.seed,
    smoke: flags.smoke,
    cases,
  };
  console.log(formatReport(report, subject));
  if (flags.jsonPath !== undefined) writeFileSync(flags.jsonPath, `${JSON.stringify({ ...report, ...fields }, undefined, 2)}\n`);
  return report;
}

function formatReport(report: BenchReport, subject?: string): string {
  const busy = report.loadAverage === undefined ? '' : `, load ${report.loadAverage}`;
  const head = `${report.name}${report.smoke ? ' (smoke)' : ''}: ${report.machine}${subject === undefined ? '' : `, ${subject}`}, Bun ${report.bun}, commit ${report.commit}, seed ${report.seed}${busy}`;
  const rows = report.cases.map((row) => [
    row.case,
    formatNumber(row.ours),
    formatNumber(row.peer),
    row.unit,
    row.peerName,
    `${row.ratio.toFixed(2)}x`,
    row.roof === undefined ? '' : `${row.roof.percent.toFixed(0)} % of ${row.roof.name}`,
  ]);
  return rows.length === 0 ? head : `${head}\n${formatTable(['case', 'ours', 'peer', 'unit', 'peer name', 'ratio', 'roof'], rows)}`;
}

/** Columns padded to their widest cell, numbers to the right; a column that is empty throughout is left out. */
function formatTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const kept = head.map((_, column) => column).filter((column) => rows.some((row) => row[column] !== ''));
  const widths = kept.map((column) => Math.max(...[head, ...rows].map((row) => (row[column] ?? '').length)));
  const numeric = kept.map((column) => rows.every((row) => /^[\d.,x]*$/.test(row[column] ?? '')));
  const line = (row: readonly string[]): string => {
    const cells = kept.map((column, at) => {
      const cell = row[column] ?? '';
      return numeric[at] === true ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0);
    });
    return cells.join('  ').trimEnd();
  };
  return [line(head), ...rows.map(line)].join('\n');
}

/** Three significant digits below 1,000, whole numbers with separators above. */
function formatNumber(value: number): string {
  return Math.abs(value) < 1000 ? String(Number(value.toPrecision(3))) : Math.round(value).toLocaleString('en-US');
}
