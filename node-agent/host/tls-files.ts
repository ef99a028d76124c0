/** Certificate and key of the doors, read and compared once at start. */
import { X509Certificate, createPrivateKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { KvtierError } from '#core/errors.ts';

export interface TlsFiles {
  /** PEM: the certificate of the agent first, then those that lead to its root. */
  readonly cert: string;
  /** PEM. A secret: goes to the listener and nowhere else. */
  readonly key: string;
}

/** Errors: CONFIG_INVALID that names the file and what is wrong with it, never what is in it. */
export function readTlsFiles({ certPath, keyPath }: { readonly certPath: string; readonly keyPath: string }): TlsFiles {
  const cert = textOf(certPath, '--tls-cert');
  const key = textOf(keyPath, '--tls-key');
  const certificate = parsed(() => new X509Certificate(cert), `--tls-cert ${certPath}: a certificate in PEM is wanted`);
  const privateKey = parsed(() => createPrivateKey(key), `--tls-key ${keyPath}: a private key in PEM without a passphrase is wanted`);
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new KvtierError('CONFIG_INVALID', `--tls-key ${keyPath} is not the key of the certificate in ${certPath}`);
  }
  return { cert, key };
}

function textOf(path: string, flag: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unreadable';
    throw new KvtierError('CONFIG_INVALID', `Cannot read ${flag} ${path}: ${code}`, { context: { path } });
  }
}

/** The cause is left out: OpenSSL's words may quote the text. */
function parsed<T>(parse: () => T, wanted: string): T {
  try {
    return parse();
  } catch {
    throw new KvtierError('CONFIG_INVALID', wanted);
  }
}
