/** The first page of a slot table: what it says of its tier, and whether a table that was found fits this one. */
import type { BlockHash } from '#core/checksum.ts';
import type { Arena } from '#ports/shared-memory.ts';
import * as format from './slot-record.ts';
import { header, UNIT_BYTES } from './slot-record.ts';
import { tableViews } from './table-views.ts';
import type { TableViews } from './table-views.ts';

/** What must be equal for the records of a former process to mean anything to this one. */
export interface TableGeometry {
  readonly tierBytes: number;
  /** Of each arena but the last, which has the rest. */
  readonly arenaBytes: number;
  readonly pageBytes: number;
  /** Memory does not survive a boot, whatever the file system says. */
  readonly bootId: string;
}

/** A unit for each KiB of the tier: chunks below that may have none, and are forgotten by a restart. 2^23 units are 2 GiB of addresses. */
const BYTES_A_UNIT = 1024;
const LEAST_UNITS = 4096;
const MOST_UNITS = 2 ** 23;

export function tableUnits(tierBytes: number): number {
  return Math.min(MOST_UNITS, LEAST_UNITS + Math.floor(tierBytes / BYTES_A_UNIT));
}

function bootIdBytes(bootId: string): Uint8Array {
  const bytes = new Uint8Array(header.bootIdBytes);
  bytes.set(new TextEncoder().encode(bootId).subarray(0, header.bootIdBytes));
  return bytes;
}

/** Covers what is written once, the boot id included. */
function headerChecksum(views: TableViews, hash: BlockHash): bigint {
  const { bytes } = views;
  return hash(
    bytes.subarray(header.bootId, header.bootId + header.bootIdBytes),
    hash(bytes.subarray(0, header.checksum), format.HEADER_SEED),
  );
}

export function writeHeader(views: TableViews, geometry: TableGeometry, hash: BlockHash): void {
  const { bytes, u32, f64, u64 } = views;
  bytes.fill(0, 0, format.TABLE_HEADER_BYTES);
  u32[0] = format.MAGIC_LOW;
  u32[1] = format.MAGIC_HIGH;
  u32[header.version / 4] = format.SLOT_TABLE_VERSION;
  u32[header.unitBytes / 4] = UNIT_BYTES;
  u32[header.unitCount / 4] = tableUnits(geometry.tierBytes);
  u32[header.pageBytes / 4] = geometry.pageBytes;
  f64[header.tierBytes / 8] = geometry.tierBytes;
  f64[header.arenaBytes / 8] = geometry.arenaBytes;
  bytes.set(bootIdBytes(geometry.bootId), header.bootId);
  u64[header.checksum / 8] = headerChecksum(views, hash);
}

/** Why a table that was found cannot be used, as an end of "The RAM tier starts empty: "; '' where it can. */
export function headerProblem(arena: Arena, geometry: TableGeometry, hash: BlockHash): string {
  if (arena.sizeBytes < format.TABLE_HEADER_BYTES) return 'its table is cut short';
  const views = tableViews(arena.view(0, format.TABLE_HEADER_BYTES));
  const { bytes, u32, f64, u64 } = views;
  if (u32[0] !== format.MAGIC_LOW || u32[1] !== format.MAGIC_HIGH) return 'its table is not one of kvtier, or was never finished';
  const version = u32[header.version / 4] as number;
  if (version !== format.SLOT_TABLE_VERSION) return `its table has format ${version}, this kvtier reads ${format.SLOT_TABLE_VERSION}`;
  if (u64[header.checksum / 8] !== headerChecksum(views, hash)) return 'the header of its table is damaged';
  const boot = bootIdBytes(geometry.bootId);
  if (boot.some((byte, index) => bytes[header.bootId + index] !== byte)) return 'the machine was booted since';
  const [tierBytes, arenaBytes] = [f64[header.tierBytes / 8] as number, f64[header.arenaBytes / 8] as number];
  if (tierBytes !== geometry.tierBytes) return `it had ${tierBytes} bytes, ram.size is ${geometry.tierBytes} now`;
  const isSame =
    arenaBytes === geometry.arenaBytes &&
    u32[header.pageBytes / 4] === geometry.pageBytes &&
    u32[header.unitBytes / 4] === UNIT_BYTES &&
    u32[header.unitCount / 4] === tableUnits(geometry.tierBytes) &&
    arena.sizeBytes === format.TABLE_HEADER_BYTES + tableUnits(geometry.tierBytes) * UNIT_BYTES;
  return isSame ? '' : 'its memory is cut up otherwise';
}
