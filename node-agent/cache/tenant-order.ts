/**
 * Who of one tenant's chunks goes first: least recently used, one list for each tenant with a quota, all over one array of links.
 *
 * Why lists: the coldest chunk of one tenant may be the hottest of all, and a search through the tier's order would then look at every
 * chunk for each eviction, of which a busy tenant needs one a put (docs/bench/quotas.md has both measured). A list costs 8 bytes for each row of the index
 * once any tenant has a quota, nothing before, and a touch of a chunk whose tenant has none passes it by.
 *
 * Touched in the same order as the tier's own policy, suffix first and prefix last, so a tenant's chain loses its tail first too
 * (policy/leaf-lru.ts). Whatever that policy is, a tenant gives up by recency.
 *
 * Invariants (`check`): a list is one line, its links agree both ways, and its size is the number of its entries.
 */
import { assert } from '#core/assert.ts';

/** Entry + 1 at both ends; 0 where the list is empty. Owned by the tenant's row, changed here alone. */
export interface TenantList {
  coldest: number;
  hottest: number;
  size: number;
}

const FIRST_ENTRIES = 4096;

export class TenantOrder {
  /** For each entry: hotter neighbour + 1, colder neighbour + 1. */
  #links = new Uint32Array(0);

  /** The entry becomes the hottest; it must be in no list. */
  insert(list: TenantList, entry: number): void {
    this.#grow(entry);
    this.#pushHottest(list, entry);
    list.size += 1;
  }

  touch(list: TenantList, entry: number): void {
    if (list.hottest === entry + 1) return;
    this.#unlink(list, entry);
    this.#pushHottest(list, entry);
  }

  remove(list: TenantList, entry: number): void {
    assert(list.size > 0, `entry ${entry} leaves a list that it is in`);
    this.#unlink(list, entry);
    list.size -= 1;
  }

  /** As EvictionPolicy.victim. */
  victim(list: TenantList, isEvictable: (entry: number) => boolean, scanLimit: number): number {
    let next = list.coldest;
    for (let looked = 0; next !== 0 && looked < scanLimit; looked += 1) {
      if (isEvictable(next - 1)) return next - 1;
      next = this.#hotter(next - 1);
    }
    return -1;
  }

  /** Empties the list, coldest first. */
  drain(list: TenantList, visit: (entry: number) => void): void {
    while (list.coldest !== 0) {
      const entry = list.coldest - 1;
      this.remove(list, entry);
      visit(entry);
    }
  }

  check(list: TenantList, visit: (entry: number) => void): void {
    let colder = 0;
    let listed = 0;
    for (let next = list.coldest; next !== 0; next = this.#hotter(next - 1)) {
      listed += 1;
      assert(listed <= list.size, `a tenant's list holds ${list.size} entries`);
      assert(this.#links[(next - 1) * 2 + 1] === colder, `entry ${next - 1} of a tenant's list links back to ${colder - 1}`);
      visit(next - 1);
      colder = next;
    }
    assert(listed === list.size && colder === list.hottest, "a tenant's list ends where it should");
  }

  #hotter(entry: number): number {
    return this.#links[entry * 2] ?? 0;
  }

  #pushHottest(list: TenantList, entry: number): void {
    const former = list.hottest;
    this.#links[entry * 2] = 0;
    this.#links[entry * 2 + 1] = former;
    if (former === 0) list.coldest = entry + 1;
    else this.#links[(former - 1) * 2] = entry + 1;
    list.hottest = entry + 1;
  }

  #unlink(list: TenantList, entry: number): void {
    const hotter = this.#links[entry * 2] ?? 0;
    const colder = this.#links[entry * 2 + 1] ?? 0;
    if (hotter === 0) list.hottest = colder;
    else this.#links[(hotter - 1) * 2 + 1] = colder;
    if (colder === 0) list.coldest = hotter;
    else this.#links[(colder - 1) * 2] = hotter;
  }

  #grow(entry: number): void {
    if (entry * 2 + 1 < this.#links.length) return;
    const grown = new Uint32Array(Math.max(2 * FIRST_ENTRIES, 2 * this.#links.length, 2 * (entry + 1)));
    grown.set(this.#links);
    this.#links = grown;
  }
}
