/** Which doors open where: what may listen beyond this machine, and that no two want one address. */
import type { AgentConfig } from './agent-config.ts';
import { formatAddress, isLoopback, isWildcard, type Address } from './knob-types.ts';
import type { KnobKey, KnobValues } from './knobs.ts';

/** Where lm:// listens by itself: only where nothing is protected by a token, since it asks for none and would be a way around it. */
const DEFAULT_LM: Address = { host: '127.0.0.1', port: 7602 };

export interface LmDoor {
  readonly config: AgentConfig['lm'];
  /** Why it is on or off, where nobody said so. */
  readonly because: string | undefined;
}

export function lmDoor(values: KnobValues, hasToken: boolean): LmDoor {
  const asked = values['lm.listen'];
  if (asked !== 'auto') return { config: { listen: asked === 'off' ? undefined : asked }, because: undefined };
  if (hasToken) return { config: { listen: undefined }, because: 'off, since a token is wanted and lm:// has none' };
  return { config: { listen: DEFAULT_LM }, because: 'this machine only' };
}

interface Door {
  readonly key: KnobKey;
  readonly name: string;
  readonly address: Address;
}

/** Sentences about what cannot be; `named` gives the address as its owner named it. */
export function doorProblems(
  values: KnobValues,
  lm: Address | undefined,
  options: { readonly hasToken: boolean; readonly named: (key: KnobKey, value: string) => string },
): readonly string[] {
  const { named } = options;
  const resp = values['resp.listen'];
  const doors: Door[] = [{ key: 'http.listen', name: 'HTTP', address: values['http.listen'] }];
  if (resp !== 'off') doors.push({ key: 'resp.listen', name: 'RESP', address: resp });
  if (lm !== undefined) doors.push({ key: 'lm.listen', name: 'lm', address: lm });
  const problems: string[] = [];
  for (const { key, name, address } of doors) {
    if (isLoopback(address.host)) continue;
    const asked = named(key, formatAddress(address));
    if (name === 'lm' && !values['lm.allowUnauthenticated']) {
      problems.push(
        `${asked} opens lm beyond this machine, and its protocol knows no authentication: bind to 127.0.0.1, or set --lm-allow-unauthenticated`,
      );
    } else if (name !== 'lm' && !options.hasToken) {
      problems.push(`${asked} opens ${name} beyond this machine without a token: set --token-file or --token, or bind to 127.0.0.1`);
    }
  }
  doors.forEach((door, index) => {
    for (const other of doors.slice(index + 1)) {
      if (!collide(door.address, other.address)) continue;
      problems.push(
        `${door.name} and ${other.name} cannot both listen on port ${door.address.port}: ${named(door.key, formatAddress(door.address))}, ${named(other.key, formatAddress(other.address))}`,
      );
    }
  });
  return problems;
}

function collide(a: Address, b: Address): boolean {
  if (a.port === 0 || a.port !== b.port) return false;
  return a.host === b.host || isWildcard(a.host) || isWildcard(b.host) || a.host === 'localhost' || b.host === 'localhost';
}
