/** What operators of a simulated world ask over REST, and what the oracle makes of the answers. */
import { tenantOfCredential } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';
import type { SimRng } from './sim-clock.ts';
import type { SimKey, SimSpan } from './sim-oracle.ts';
import type { SimWorld } from './sim-world.ts';

export class SimOperators {
  readonly #world: SimWorld;
  readonly #rng: SimRng;
  /** Requests that have no answer yet. */
  #requests = 0;

  constructor(world: SimWorld) {
    this.#world = world;
    this.#rng = world.agent.rng;
  }

  get pending(): number {
    return this.#requests;
  }

  /** The process is gone, and nobody answers any more. */
  forget(): void {
    this.#requests = 0;
  }

  /** A request of some operator. */
  one(): void {
    if (!this.#world.agent.isReady || this.#requests >= 4) return;
    const who = this.#world.someone();
    const action = this.#rng.weighted({
      invalidate: 5,
      dryRun: 1,
      evict: 3,
      persist: 2,
      prefetch: 3,
      epoch: 0.5,
      chunks: 1,
      verify: 0.3,
      pin: 3,
      unpin: 0.7,
      quota: 0.7,
    });
    if (action === 'invalidate') this.#invalidate(who);
    else if (action === 'dryRun') this.#post(who, '/v1/invalidate', { selector: this.#selector(who), dryRun: true });
    else if (action === 'evict') this.#post(who, '/v1/evict', { tier: this.#rng.pick(this.#tiers), selector: this.#broad(who) });
    else if (action === 'persist') this.#post(who, '/v1/persist', { selector: this.#broad(who) });
    else if (action === 'prefetch') this.#prefetch(who);
    else if (action === 'epoch') this.#epoch();
    else if (action === 'pin') this.#pin();
    else if (action === 'unpin') this.#unpin();
    else if (action === 'quota') this.#quota();
    else if (action === 'chunks') this.#chunks(who);
    else this.#verify();
    this.#world.agent.settle();
  }

  get #tiers(): readonly ('hbm' | 'ram' | 'ssd')[] {
    return this.#world.options.hbmBytes === undefined ? ['ram', 'ssd'] : ['hbm', 'ram', 'ssd'];
  }

  #prefetch(who: string | undefined): void {
    const keys = this.#someKeys(who, 3).map((key) => key.name);
    const toHbm = this.#world.options.hbmBytes !== undefined && this.#rng.chance(0.7);
    this.#post(who, '/v1/prefetch', { keys, ...(toHbm ? { tier: 'hbm' } : {}) });
  }

  /** The key is to come to SSD. */
  persist(key: SimKey): void {
    this.#post(undefined, '/v1/persist', { selector: { keys: [key.name] } });
    this.#world.agent.settle();
  }

  #someKeys(who: string | undefined, most: number): SimKey[] {
    return [...new Set(Array.from({ length: 1 + this.#rng.below(most) }, () => this.#world.key(who)))];
  }

  #selector(who: string | undefined): Selector {
    const { clock } = this.#world.agent;
    const kind = this.#rng.weighted({
      model: 2,
      modelPrefix: 1,
      tenant: 1,
      keys: 5,
      keyPrefix: 2,
      createdBefore: 2,
      olderThan: 1,
      chainFrom: 1,
      tier: 0.5,
    });
    const { name } = this.#world.key(who);
    if (kind === 'model') return { model: this.#rng.pick(['model-a', 'model-b']) };
    if (kind === 'modelPrefix') return { modelPrefix: 'model-' };
    if (kind === 'tenant') return { tenant: this.#rng.pick(['default', 'salt', this.#world.tenantOf(who) ?? 'default']) };
    if (kind === 'keys') return { keys: this.#someKeys(who, 2).map((key) => key.name) };
    if (kind === 'keyPrefix') return { keyPrefix: name.slice(0, -3) };
    if (kind === 'createdBefore') return { createdBefore: clock.nowMs() - this.#rng.below(5000) };
    if (kind === 'olderThan') return { olderThan: clock.nowMs() - this.#rng.below(5000) };
    if (kind === 'tier') return { tier: this.#rng.pick(['ram', 'ssd'] as const), model: 'model-a' };
    return { chainFrom: name };
  }

  #broad(who: string | undefined): Selector {
    return this.#rng.chance(0.3) ? { all: true } : { keys: this.#someKeys(who, 3).map((key) => key.name) };
  }

  /** A request; `done` hears of an answer 200 of the same life. Anything else must be an operating error. */
  // oxlint-disable-next-line max-params -- who, what, and what then
  #post(who: string | undefined, path: string, body: unknown, done: (answer: unknown) => void = () => {}): void {
    this.#send({ method: 'POST', path, body, who, done });
  }

  #send(request: {
    readonly method: 'POST' | 'PUT' | 'DELETE';
    readonly path: string;
    readonly body: unknown;
    readonly who?: string | undefined;
    readonly done?: (answer: unknown) => void;
  }): void {
    const { agent } = this.#world;
    const { method, path, body, who, done = () => {} } = request;
    const life = agent.lives;
    this.#requests += 1;
    const text = `${who ?? 'admin'} ${method} ${path} ${JSON.stringify(body)}`;
    this.#world.note(text);
    const answered = async (): Promise<void> => {
      const response = await agent.request(method, path, { body, who });
      const answer: unknown = await response.json();
      // A process that has ended in the middle of it answers nothing.
      if (life !== agent.lives || agent.disk.data.isStopped) return;
      this.#requests -= 1;
      this.#world.note(`${text}: ${response.status}`);
      if (response.status === 200) done(answer);
      else if (response.status < 503 && !(response.status === 404 && method === 'DELETE'))
        throw new Error(`${text} was answered by ${response.status} ${JSON.stringify(answer)}`);
    };
    answered().catch((problem: unknown) => agent.fail(problem));
  }

  #invalidate(who: string | undefined): void {
    const selector = this.#selector(who);
    const span = this.#world.oracle.begin();
    const over = this.#world.oracle.beginChange();
    this.#post(who, '/v1/invalidate', { selector }, () => {
      over();
      this.#invalidated(selector, span, who);
    });
  }

  /** A tenant's selector reaches its own chunks alone. */
  #invalidated(selector: Selector, span: SimSpan, who: string | undefined): void {
    const tenant = this.#world.tenantOf(who);
    const { all: _all, ...rest } = selector;
    if (tenant !== undefined && rest.tenant !== undefined && rest.tenant !== tenant) return;
    const own = tenant === undefined ? selector : { ...rest, tenant };
    this.#world.oracle.endInvalidation(own, span);
    this.#world.listener?.invalidated(own, span.begin);
  }

  #pin(): void {
    const key = this.#world.key(this.#world.options.tenants === undefined ? undefined : 'admin');
    const { listener, oracle } = this.#world;
    const meant = { descriptor: key.namespace, key: oracle.ownKey(key) };
    const mode = this.#rng.weighted({ soft: 1, hard: 2 });
    const { begin } = oracle.begin();
    // A soft pin takes the place of a hard one.
    const softened = mode === 'soft' ? listener?.unpin([meant]) : undefined;
    this.#post(undefined, '/v1/pin', { selector: { keys: [key.name] }, mode }, (answer) => {
      const { pinned, alreadyPinned } = answer as {
        readonly pinned: { readonly chunks: number };
        readonly alreadyPinned: { readonly chunks: number };
      };
      softened?.();
      // Where tenants spell it alike, it is pinned for each; what exactly was pinned is clear only where there is one.
      if (mode === 'hard' && pinned.chunks + alreadyPinned.chunks === 1 && this.#world.options.tenants === undefined)
        listener?.pinned(meant, begin);
    });
  }

  #unpin(): void {
    const { listener, oracle } = this.#world;
    const keys = this.#rng.chance(0.3) ? undefined : this.#someKeys(undefined, 3);
    const selector: Selector = keys === undefined ? { all: true } : { keys: keys.map((key) => key.name) };
    const which = keys?.map((key) => ({ descriptor: key.namespace, key: oracle.ownKey(key) }));
    const unpinned = listener?.unpin(which);
    this.#post(undefined, '/v1/unpin', { selector }, () => unpinned?.());
  }

  #quota(): void {
    const tenant = this.#rng.pick(this.#tenants);
    const path = `/v1/tenants/${encodeURIComponent(tenant)}/quota`;
    if (this.#rng.chance(0.4)) return this.#send({ method: 'DELETE', path, body: undefined });
    const limit = (): number => this.#rng.pick([50_000, 200_000, 1_000_000]);
    const body = this.#rng.pick([{ ramBytes: limit() }, { ssdBytes: limit() }, { ramBytes: limit(), ssdBytes: limit() }]);
    this.#send({ method: 'PUT', path, body });
  }

  /** For the end: quotas leave to RAM what SSD could take. */
  removeQuotas(): void {
    for (const tenant of this.#tenants)
      this.#send({ method: 'DELETE', path: `/v1/tenants/${encodeURIComponent(tenant)}/quota`, body: undefined });
    this.#world.agent.settle();
  }

  get #tenants(): readonly string[] {
    return ['default', 'salt', ...(this.#world.options.tenants ?? []).map(tenantOfCredential)];
  }

  #epoch(): void {
    const span = this.#world.oracle.begin();
    const over = this.#world.oracle.beginChange();
    this.#post(undefined, '/v1/namespaces/model-b/epoch', {}, () => {
      over();
      this.#invalidated({ model: 'model-b' }, span, undefined);
    });
  }

  /** What is listed for somebody must be there for him. */
  #chunks(who: string | undefined): void {
    const { agent, oracle } = this.#world;
    const life = agent.lives;
    const span = oracle.begin();
    const list = async (): Promise<void> => {
      const response = await agent.request('GET', '/v1/chunks?limit=1000', { who });
      const { chunks } = (await response.json()) as { readonly chunks: readonly { readonly key: string }[] };
      if (life !== agent.lives) return;
      this.#world.note(`${who ?? 'admin'} lists ${chunks.length} chunks`);
      for (const { key } of chunks) {
        if (!this.#world.mayList(key, who, span)) throw new Error(`${key} is listed for ${who ?? 'admin'} and cannot be there`);
      }
    };
    list().catch((problem: unknown) => agent.fail(problem));
  }

  #verify(): void {
    const { agent } = this.#world;
    const life = agent.lives;
    this.#requests += 1;
    const run = async (): Promise<void> => {
      for await (const _step of agent.cache.control.verify()) void _step;
      if (life === agent.lives) this.#requests -= 1;
    };
    run().catch((problem: unknown) => agent.fail(problem));
  }
}
