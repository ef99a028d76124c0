/**
 * Rows (small numbers that somebody else gives out) in doubly linked lists that have a number as their name. A row is in at most one list.
 *
 * Invariants (checkInvariants): a list that has a name has a row; first and last of a list are its ends, and each row of it knows its list.
 */
import { assert } from '#core/assert.ts';

const FIRST_ROWS = 256;

export class RowLists {
  /** Name -> number of the list. */
  readonly #lists = new Map<number, number>();
  readonly #names: number[] = [];
  readonly #firsts: number[] = [];
  readonly #lasts: number[] = [];
  readonly #free: number[] = [];
  #next = new Int32Array(FIRST_ROWS);
  #previous = new Int32Array(FIRST_ROWS);
  #listOf = new Int32Array(FIRST_ROWS);
  /** The list that was named last: a lookup names one owner and one bucket many times. */
  #lastName = Number.NaN;
  #lastList = -1;

  /** Names of lists that have a row. */
  names(): number[] {
    return [...this.#lists.keys()];
  }

  /** -1 where there is no such list. */
  first(name: number): number {
    const list = this.#lists.get(name);
    return list === undefined ? -1 : this.#firsts[list]!;
  }

  /** Rows of a list, by walking it. */
  count(name: number): number {
    let count = 0;
    for (let row = this.first(name); row >= 0; row = this.#next[row]!) count += 1;
    return count;
  }

  append(name: number, row: number): void {
    if (row >= this.#next.length) this.#grow(row);
    const list = name === this.#lastName ? this.#lastList : this.#open(name);
    const last = this.#lasts[list]!;
    this.#listOf[row] = list;
    this.#previous[row] = last;
    this.#next[row] = -1;
    this.#lasts[list] = row;
    if (last < 0) this.#firsts[list] = row;
    else this.#next[last] = row;
  }

  #open(name: number): number {
    let list = this.#lists.get(name);
    if (list === undefined) {
      list = this.#free.pop() ?? this.#names.length;
      this.#lists.set(name, list);
      this.#names[list] = name;
      this.#firsts[list] = -1;
      this.#lasts[list] = -1;
    }
    this.#lastName = name;
    this.#lastList = list;
    return list;
  }

  /** Takes a row out of the list that it is in. */
  remove(row: number): void {
    const list = this.#listOf[row]!;
    const [previous, next] = [this.#previous[row]!, this.#next[row]!];
    if (previous < 0) this.#firsts[list] = next;
    else this.#next[previous] = next;
    if (next < 0) this.#lasts[list] = previous;
    else this.#previous[next] = previous;
    if (previous >= 0 || next >= 0) return;
    this.#lists.delete(this.#names[list]!);
    this.#free.push(list);
    if (list === this.#lastList) this.#lastName = Number.NaN;
  }

  #grow(row: number): void {
    const rows = 2 ** Math.ceil(Math.log2(row + 1));
    const grown = (from: Int32Array): Int32Array<ArrayBuffer> => {
      const to = new Int32Array(rows);
      to.set(from);
      return to;
    };
    this.#next = grown(this.#next);
    this.#previous = grown(this.#previous);
    this.#listOf = grown(this.#listOf);
  }

  /** Rows in all lists. */
  checkInvariants(): number {
    let count = 0;
    for (const [name, list] of this.#lists) {
      assert(this.#names[list] === name && this.#firsts[list]! >= 0, `list ${name} has a row`);
      let last = -1;
      for (let row = this.#firsts[list]!; row >= 0; row = this.#next[row]!) {
        assert(this.#listOf[row] === list && this.#previous[row] === last, `row ${row} knows its place in list ${name}`);
        last = row;
        count += 1;
      }
      assert(this.#lasts[list] === last, `the last row of list ${name} is its last`);
    }
    return count;
  }
}
