/** A client of lm:// for well-meant and hostile traffic; `raw` is the connection itself. */
import type { LmBlock } from '#core/lm-block.ts';
import { LM_FAIL, LM_NO_OBJECT, LM_REPLY_BYTES, LM_SUCCESS, decodeLmReply, encodeLmRequest } from '#protocol/lm/lm-frame.ts';
import type { LmCommand } from '#protocol/lm/lm-frame.ts';
import { ByteClient, concat } from './byte-client.ts';

export interface LmObject {
  readonly block: LmBlock;
  readonly bytes: Uint8Array;
}

const encoder = new TextEncoder();

export class LmClient {
  readonly raw: ByteClient;

  constructor(raw: ByteClient) {
    this.raw = raw;
  }

  static async connect(address: { readonly host: string; readonly port: number }): Promise<LmClient> {
    return new LmClient(await ByteClient.connect(address));
  }

  /** Sends; there is no reply. */
  put(key: string, object: LmObject): void {
    this.raw.write(putFrame(key, object));
  }

  async get(key: string): Promise<LmObject | undefined> {
    this.raw.write(frame('GET', key));
    return await this.object();
  }

  /** The reply to a GET. */
  async object(): Promise<LmObject | undefined> {
    const { code, length, block, location } = await this.reply();
    if (code === LM_FAIL) {
      if (length !== 0 || location !== 0 || JSON.stringify(block) !== JSON.stringify(LM_NO_OBJECT)) throw new Error('A miss says more');
      return undefined;
    }
    return { block, bytes: await this.raw.bytes(length) };
  }

  /** One reply of a command that has no payload. */
  async ask(command: Exclude<LmCommand, 'PUT' | 'GET'>, key = ''): Promise<boolean> {
    this.raw.write(frame(command, key));
    return await this.answer();
  }

  async answer(): Promise<boolean> {
    const { code, length } = await this.reply();
    if (length !== 0) throw new Error(`An answer announces ${length} bytes`);
    return code === LM_SUCCESS;
  }

  async reply(): Promise<ReturnType<typeof decodeLmReply>> {
    const reply = decodeLmReply(await this.raw.bytes(LM_REPLY_BYTES));
    if (reply.code !== LM_SUCCESS && reply.code !== LM_FAIL) throw new Error(`Out of step: a reply with code ${reply.code}`);
    return reply;
  }

  /** Resolves when everything before has been worked through. */
  async inStep(): Promise<void> {
    if (!(await this.ask('HEALTH'))) throw new Error('HEALTH was answered with no');
    if (this.raw.availableBytes !== 0) throw new Error(`${this.raw.availableBytes} bytes too many`);
  }

  destroy(): void {
    this.raw.destroy();
  }
}

export function frame(command: LmCommand, key: string, options: { readonly length?: number; readonly block?: LmBlock } = {}): Uint8Array {
  return encodeLmRequest(command, encoder.encode(key), options);
}

export function putFrame(key: string, { block, bytes }: LmObject): Uint8Array {
  return concat([frame('PUT', key, { length: bytes.length, block }), bytes]);
}

/** A key of LMCache's in-process grammar. */
export function engineKey(id: number | string, model = 'm'): string {
  const hash = typeof id === 'string' ? id : id.toString(16).padStart(8, '0').repeat(8);
  return `${model}@1@0@${hash}@bfloat16`;
}

/** A block that tells whose it is. */
export function blockOf(id: number): LmBlock {
  return { fmt: 1 + (id % 7), dtype: id % 9, shape: [id, 0 - id, id * 3, 2 ** 31 - 1 - id] };
}
