/** What the architecture tests know about the repository on disk, and how they run its tools on a copy of a part of it. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

export const root = resolve(import.meta.dirname, '..', '..');

/** Files that git tracks or would track, relative to the root, sorted: what a newcomer's clone holds. */
export function repositoryFiles(): readonly string[] {
  const listed = Bun.spawnSync(['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z'], { cwd: root });
  if (listed.exitCode === 0) return existing(listed.stdout.toString().split('\0').filter(Boolean)).toSorted();
  // A source archive has no git; everything in it was tracked.
  return [...new Bun.Glob('**/*').scanSync({ cwd: root, dot: true })]
    .filter((path) => !/^(node_modules|\.git|\.kvtier)\//.test(path))
    .toSorted();
}

function existing(paths: readonly string[]): readonly string[] {
  return paths.filter((path) => Bun.file(join(root, path)).size > 0);
}

export function readText(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}

export interface Finding {
  readonly file: string;
  readonly line: number;
  readonly rule: string;
}

/** A folder outside of the repository with its configuration files and packages, for files that must not lie in the tree itself. */
export class Workshop {
  readonly folder: string;

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'kvtier-architecture-'));
    for (const name of ['.oxlintrc.json', 'package.json', 'tsconfig.json', 'src/tsconfig.json']) this.write(name, readText(name));
    symlinkSync(join(root, 'node_modules'), join(this.folder, 'node_modules'));
  }

  write(path: string, text: string): void {
    const target = join(this.folder, path);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, text);
  }

  copy(from: string, path: string): void {
    cpSync(join(root, from), join(this.folder, path), { recursive: true });
  }

  /** Everything oxlint says, sorted; throws when it could not run or linted no file. */
  lint(): readonly Finding[] {
    // Through a file: oxlint ends before a pipe has taken a long report.
    const reportPath = join(this.folder, 'report.json');
    const run = Bun.spawnSync([join(root, 'node_modules/.bin/oxlint'), '--format=json', '.'], {
      cwd: this.folder,
      stdout: Bun.file(reportPath),
    });
    const text = readFileSync(reportPath, 'utf8');
    rmSync(reportPath);
    if (!text.trimStart().startsWith('{')) throw new Error(`Cannot lint: oxlint printed ${text || run.stderr.toString()}`);
    const report = JSON.parse(text) as LintReport;
    if (report.number_of_files === 0) throw new Error('Cannot lint: oxlint saw no file');
    return report.diagnostics.map(toFinding).toSorted(byPlace);
  }

  /** Everything tsc says about src/tsconfig.json, sorted. */
  typeCheckSources(): readonly Finding[] {
    const run = Bun.spawnSync([join(root, 'node_modules/.bin/tsc'), '--noEmit', '--pretty', 'false', '-p', 'src/tsconfig.json'], {
      cwd: this.folder,
    });
    const findings: Finding[] = [];
    for (const line of run.stdout.toString().split('\n')) {
      const match = /^(.+)\((\d+),\d+\): error (TS\d+):/.exec(line);
      if (match !== null) findings.push({ file: match[1] ?? '', line: Number(match[2]), rule: match[3] ?? '' });
    }
    if (findings.length === 0 && run.exitCode !== 0) throw new Error(`Cannot check types: ${run.stdout.toString()}`);
    return findings.toSorted(byPlace);
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

interface LintReport {
  readonly number_of_files: number;
  readonly diagnostics: readonly LintDiagnostic[];
}

interface LintDiagnostic {
  readonly filename: string;
  /** `plugin(rule)`. */
  readonly code: string;
  readonly labels: readonly { readonly span: { readonly line: number } }[];
}

function toFinding(diagnostic: LintDiagnostic): Finding {
  return {
    file: diagnostic.filename,
    line: diagnostic.labels[0]?.span.line ?? 0,
    rule: /\((.+)\)$/.exec(diagnostic.code)?.[1] ?? diagnostic.code,
  };
}

/** Orders by file, line and rule, so that two lists compare as sets. */
export function byPlace(a: Finding, b: Finding): number {
  return a.file.localeCompare(b.file) || a.line - b.line || a.rule.localeCompare(b.rule);
}
