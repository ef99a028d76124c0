/**
 * The part of one device that belongs to the cache: a few large pieces, each an allocation of its own that is divided by the same slab
 * allocator as RAM. A handle for another process opens the whole piece, so a piece belongs to one tenant group while anything is in it.
 *
 * Invariants (checkInvariants): a piece has a group exactly while it has a slot in use; pieces never overlap. The pool knows
 * no chunks and touches no bytes.
 */
import { assert } from '#core/assert.ts';
import type { Address, DevicePtr, SlotIndex } from '#core/brand.ts';
import { MiB, formatBytes, roundUp } from '#core/bytes.ts';
import type { Device, DeviceFailure } from '#ports/device-memory.ts';
import { SlabAllocator, choosePageBytes } from '#slab/slab-allocator.ts';
import type { SlabClassStats } from '#slab/slab-stats.ts';

/** More pieces serve more tenant groups at one time; fewer hold large chunks with less waste. */
const PIECES = 8;
/** A piece is at least this large, and at least four of the largest chunks, where the pool allows. */
const LEAST_PIECE_BYTES = 64 * MiB;

export interface Piece {
  readonly index: number;
  readonly pointer: DevicePtr;
  readonly sizeBytes: number;
  readonly slab: SlabAllocator;
  /** Whose chunks are in it; undefined: nobody's, it is empty. */
  group: string | undefined;
  usedSlots: number;
  /** For other processes; asked for once. */
  handle: Uint8Array | undefined;
}

export interface HbmPoolOptions {
  readonly device: Device;
  readonly capacityBytes: number;
  readonly maxChunkBytes: number;
  /** Of one piece; left out: an eighth of the pool, within reason. */
  readonly pieceBytes?: number | undefined;
}

export interface PoolUse {
  readonly capacityBytes: number;
  /** Slots in use, with the rounding to their class. */
  readonly slotBytes: number;
  /** Room in pieces that are in use which no slot has; what a tenant of another group cannot use. */
  readonly freeInUsedPiecesBytes: number;
  readonly pieces: number;
  readonly usedPieces: number;
  readonly classes: readonly SlabClassStats[];
}

export class HbmPool {
  readonly device: Device;
  readonly pieces: Piece[] = [];
  readonly maxChunkBytes: number;
  /** Why it is smaller than it was to be; '' otherwise. */
  reason = '';

  constructor(options: HbmPoolOptions) {
    this.device = options.device;
    this.maxChunkBytes = options.maxChunkBytes;
    const { capacityBytes } = options;
    const wanted = options.pieceBytes ?? Math.max(capacityBytes / PIECES, LEAST_PIECE_BYTES, options.maxChunkBytes * 4);
    const pieceBytes = Math.min(roundUp(Math.floor(wanted), 4096), Math.floor(capacityBytes / 4096) * 4096);
    for (let start = 0; pieceBytes > 0 && start + pieceBytes <= capacityBytes; start += pieceBytes) {
      const failure = this.#addPiece(pieceBytes);
      if (failure === undefined) continue;
      const have = formatBytes(this.capacityBytes);
      this.reason = `${have} of ${formatBytes(capacityBytes)} could be allocated: ${failure.name}`;
      break;
    }
  }

  #addPiece(sizeBytes: number): DeviceFailure | undefined {
    const allocated = this.device.allocate(sizeBytes);
    if (!allocated.ok) return allocated;
    const slab = new SlabAllocator({ pageBytes: choosePageBytes(sizeBytes), maxSlotBytes: this.maxChunkBytes });
    // The allocator computes addresses and touches none, so a device's do as well.
    const arena = slab.addArena(allocated.pointer as number as Address, sizeBytes);
    slab.makeAvailable(arena, 0, sizeBytes);
    this.pieces.push({
      index: this.pieces.length,
      pointer: allocated.pointer,
      sizeBytes,
      slab,
      group: undefined,
      usedSlots: 0,
      handle: undefined,
    });
    return undefined;
  }

  get capacityBytes(): number {
    return this.pieces.reduce((sum, piece) => sum + piece.sizeBytes, 0);
  }

  canEverFit(sizeBytes: number): boolean {
    return sizeBytes <= this.maxChunkBytes && this.pieces.some((piece) => piece.slab.canEverFit(sizeBytes));
  }

  /** A slot in a piece of the group, or in one that is empty and becomes the group's. */
  allocate(sizeBytes: number, group: string): { readonly piece: Piece; readonly slot: SlotIndex } | undefined {
    for (const piece of this.pieces) {
      const found = piece.group === group ? take(piece, sizeBytes) : undefined;
      if (found !== undefined) return found;
    }
    for (const piece of this.pieces) {
      const found = piece.group === undefined ? take(piece, sizeBytes) : undefined;
      if (found === undefined) continue;
      piece.group = group;
      return found;
    }
    return undefined;
  }

  free(piece: Piece, slot: SlotIndex): void {
    piece.slab.free(slot);
    piece.usedSlots -= 1;
    if (piece.usedSlots === 0) piece.group = undefined;
  }

  /** 64 bytes that open the piece in another process of the same user. */
  handleOf(piece: Piece): Uint8Array | DeviceFailure {
    if (piece.handle !== undefined) return piece.handle;
    const exported = this.device.exportHandle(piece.pointer);
    if (!exported.ok) return exported;
    piece.handle = exported.handle;
    return exported.handle;
  }

  use(): PoolUse {
    let slotBytes = 0;
    let freeInUsedPiecesBytes = 0;
    const classes = new Map<number, SlabClassStats>();
    for (const piece of this.pieces) {
      const stats = piece.slab.stats();
      slotBytes += stats.usedSlotBytes;
      if (piece.usedSlots > 0) freeInUsedPiecesBytes += piece.sizeBytes - stats.usedSlotBytes;
      for (const own of stats.classes) {
        const sum = classes.get(own.classBytes) ?? { classBytes: own.classBytes, slabCount: 0, slotCount: 0, usedSlotCount: 0 };
        classes.set(own.classBytes, {
          classBytes: own.classBytes,
          slabCount: sum.slabCount + own.slabCount,
          slotCount: sum.slotCount + own.slotCount,
          usedSlotCount: sum.usedSlotCount + own.usedSlotCount,
        });
      }
    }
    return {
      capacityBytes: this.capacityBytes,
      slotBytes,
      freeInUsedPiecesBytes,
      pieces: this.pieces.length,
      usedPieces: this.pieces.filter((piece) => piece.usedSlots > 0).length,
      classes: [...classes.values()].toSorted((a, b) => a.classBytes - b.classBytes),
    };
  }

  /** Gives the memory back. Nobody copies any more. */
  close(): void {
    for (const piece of this.pieces.splice(0)) this.device.free(piece.pointer);
  }

  checkInvariants(): void {
    for (const piece of this.pieces) {
      piece.slab.checkInvariants();
      const used = piece.slab.stats().usedSlotCount;
      assert(used === piece.usedSlots, `piece ${piece.index} counts ${piece.usedSlots} slots, has ${used}`);
      assert((piece.group === undefined) === (used === 0), `piece ${piece.index} has a group exactly while it has a slot in use`);
    }
  }
}

function take(piece: Piece, sizeBytes: number): { readonly piece: Piece; readonly slot: SlotIndex } | undefined {
  const slot = piece.slab.allocate(sizeBytes);
  if (slot < 0) return undefined;
  piece.usedSlots += 1;
  return { piece, slot: slot as SlotIndex };
}
