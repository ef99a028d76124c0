import { describe, expect, it } from 'vitest';
import { KvtierError } from '#core/errors.ts';
import { createLog, type LogOptions } from '#telemetry/log.ts';
import { createRedact, MASK } from '#telemetry/redact.ts';
import { tenantDigest } from '#telemetry/tenant-digest.ts';

function logInto(options: Partial<LogOptions> = {}): { readonly lines: string[]; readonly log: ReturnType<typeof createLog> } {
  const lines: string[] = [];
  return { lines, log: createLog({ level: 'debug', format: 'json', write: (line) => lines.push(line), ...options }) };
}

describe('createLog', () => {
  it('writes one JSON object a line, with time, level, room and fields', () => {
    const { lines, log } = logInto();
    log.room('tiers.ssd').warn('Folder is read-only', { path: '/a', freeBytes: 12, big: 5n });
    expect(lines).toHaveLength(1);
    expect(lines[0]?.endsWith('\n')).toBe(true);
    const record = JSON.parse(lines[0] ?? '') as Record<string, unknown>;
    expect(record).toMatchObject({ level: 'warn', room: 'tiers.ssd', message: 'Folder is read-only', path: '/a', freeBytes: 12, big: '5' });
    expect(Date.parse(String(record['time']))).toBeGreaterThan(0);
  });

  it('drops records below the level', () => {
    const { lines, log } = logInto({ level: 'warn' });
    const room = log.room('x');
    room.debug('a');
    room.info('b');
    room.warn('c');
    room.error('d');
    expect(lines.map((line) => (JSON.parse(line) as { message: string }).message)).toEqual(['c', 'd']);
  });

  it('takes braces for text, not for placeholders', () => {
    const { lines, log } = logInto();
    log.room('resp').info('Key {token} and {{x}} {', { token: 'hidden-token' });
    expect((JSON.parse(lines[0] ?? '') as { message: string }).message).toBe('Key {token} and {{x}} {');
  });

  it('never lets a field take the place of time, level, room or message', () => {
    const { lines, log } = logInto();
    log.room('x').info('real', { message: 'forged', level: 'debug' });
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ message: 'real', level: 'info', field_message: 'forged', field_level: 'debug' });
  });

  it('keeps a pretty record on one line, whatever a client sent', () => {
    const { lines, log } = logInto({ format: 'pretty' });
    log.room('resp').info('Key a\nb\u001b[31m', { key: 'x\r\ny', empty: '', list: [1, 'a b'] });
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^\d\d:\d\d:\d\d\.\d{3} info {2}resp: Key a\\nb\\u001b\[31m key="x\\r\\ny" empty="" list=\[1,"a b"\]\n$/);
  });

  it('prints errors with code, context and stack', () => {
    const error = new KvtierError('NO_SPACE', 'Cannot write', { context: { path: '/a', errno: 28 }, cause: new Error('inner') });
    const json = logInto();
    json.log.room('x').error('Write failed', { error });
    expect(JSON.parse(json.lines[0] ?? '')).toMatchObject({
      error: {
        name: 'KvtierError',
        message: 'Cannot write',
        code: 'NO_SPACE',
        context: { path: '/a', errno: 28 },
        cause: { message: 'inner' },
      },
    });
    const pretty = logInto({ format: 'pretty' });
    pretty.log.room('x').error('Write failed', { error });
    expect(pretty.lines[0]).toContain('error="KvtierError: Cannot write"');
    expect(pretty.lines[0]?.split('\n').length).toBeGreaterThan(2);
  });

  it('colours only when asked', () => {
    const plain = logInto({ format: 'pretty' });
    plain.log.room('x').info('m', { a: 1 });
    expect(plain.lines[0]).not.toContain('\u001b');
    const colored = logInto({ format: 'pretty', color: true });
    colored.log.room('x').info('m');
    expect(colored.lines[0]).toContain('\u001b[36m');
  });

  it('prints the configured tokens nowhere, in message, fields or errors', () => {
    const secrets = ['admin-token-123', 'read-token-456', 'abc'];
    for (const format of ['json', 'pretty'] as const) {
      const { lines, log } = logInto({ format, secrets });
      log.room('x').info('Sent admin-token-123 to http://u:read-token-456@h/', {
        note: 'read-token-456',
        deep: { list: ['admin-token-123'] },
        'admin-token-123': 1,
      });
      log.room('x').error('Failed', { error: new Error('with admin-token-123'), short: 'abc', word: 'abcdef' });
      const all = lines.join('');
      expect(all).not.toContain('admin-token-123');
      expect(all).not.toContain('read-token-456');
      expect(all).not.toMatch(/short"?[=:]"?abc/);
      expect(all).toContain('abcdef');
    }
  });
});

describe('createRedact', () => {
  const redact = createRedact();

  it('masks values under the names of secrets, at any depth', () => {
    const value = {
      token: 'a',
      readToken: 'b',
      read_token: 'c',
      Authorization: 'd',
      password: 'e',
      nested: [{ apiKey: 'f', secret: { part: 'g' } }],
    };
    expect(redact(value)).toEqual({
      token: MASK,
      readToken: MASK,
      read_token: MASK,
      Authorization: MASK,
      password: MASK,
      nested: [{ apiKey: MASK, secret: { part: MASK } }],
    });
    expect(redact({ tokens: 5, tokenCount: 256, tokensPerChunk: 256 })).toEqual({ tokens: 5, tokenCount: 256, tokensPerChunk: 256 });
  });

  it('masks bearer tokens and the user part of URLs in any text', () => {
    expect(redact('got Bearer abc.def from a peer')).toBe(`got Bearer ${MASK} from a peer`);
    expect(redact('calling http://user:pass@host/x')).toBe(`calling http://${MASK}@host/x`);
  });

  it('shows tenants as the digest that metrics use, and the default tenant by name', () => {
    const key = `meta-llama/L3@0000ff01@0@${'ab'.repeat(16)}@salty-secret`;
    expect(redact({ tenant: 'salty-secret', cacheSalt: 'salty-secret', keyTail: '@salty-secret' })).toEqual({
      tenant: tenantDigest('salty-secret'),
      cacheSalt: tenantDigest('salty-secret'),
      keyTail: `@${tenantDigest('salty-secret')}`,
    });
    expect(redact({ tenant: 'default' })).toEqual({ tenant: 'default' });
    expect(redact({ tenant: '@acme' })).toEqual({ tenant: '@acme' });
    expect(redact({ key })).toEqual({ key: key.replace('salty-secret', tenantDigest('salty-secret')) });
    expect(redact(`Dropped ${key} from ram`)).not.toContain('salty-secret');
    expect(redact({ namespace: 'L3@0000ff01@0#salty-secret' })).toEqual({ namespace: `L3@0000ff01@0#${tenantDigest('salty-secret')}` });
    expect(JSON.stringify(redact({ descriptor: { tenant: 'salty-secret', keyPrefix: 'L3@', keyTail: '@salty-secret' } }))).not.toContain(
      'salty',
    );
  });

  it('leaves a key without a salt as it is', () => {
    const key = `meta-llama/L3@0000ff01@0@${'ab'.repeat(16)}`;
    expect(redact({ key })).toEqual({ key });
  });

  it('bounds depth, breadth, length and cycles', () => {
    const cycle: Record<string, unknown> = {};
    cycle['self'] = cycle;
    expect(redact(cycle)).toEqual({ self: '[circular]' });
    let deep: unknown = 'leaf';
    for (let level = 0; level < 50; level += 1) deep = { deep };
    expect(JSON.stringify(redact(deep))).toContain('[deep]');
    expect((redact(Array.from({ length: 500 }, () => 1)) as unknown[]).at(-1)).toBe('… 400 more');
    expect(String(redact('x'.repeat(100_000))).length).toBeLessThan(10_000);
    expect(redact(new Uint8Array(4096))).toBe('[4096 bytes]');
    expect(redact({ at: new Date(Number.NaN), f: () => 1, s: Symbol('q'), m: new Map([['token', 'a']]), inf: Infinity })).toEqual({
      at: 'Invalid Date',
      f: '[function]',
      s: '[symbol]',
      m: { token: MASK },
      inf: 'Infinity',
    });
  });
});
