import type { ApiDeps, WebhookOptions } from './deps.ts';

/**
 * Calls LMCache's own clear after an invalidation: its L1 holds copies that nothing of ours reaches. It is all or nothing there,
 * whatever the selector was here. Fails soft: our own invalidation stands already, the answer says 'failed', and a counter moves;
 * what may be lost is that LMCache goes on serving its copies.
 */
export async function callWebhook(
  webhook: WebhookOptions | undefined,
  { metrics, logger, clock }: Pick<ApiDeps, 'metrics' | 'logger' | 'clock'>,
): Promise<'ok' | 'failed' | 'off'> {
  if (webhook === undefined) return 'off';
  const controller = new AbortController();
  const tooLate = new Promise<never>((_, reject) => {
    controller.signal.addEventListener('abort', () => reject(new Error(`No answer within ${webhook.timeoutMs} ms`)), { once: true });
  });
  const cancel = clock.schedule(webhook.timeoutMs, () => controller.abort());
  let outcome: 'ok' | 'failed' = 'failed';
  try {
    // Raced, not only aborted: the bound must hold whatever the other side of the fetch does with its signal.
    const response = await Promise.race([
      webhook.fetch(webhook.url, { method: 'POST', signal: controller.signal, redirect: 'manual' }),
      tooLate,
    ]);
    if (response.ok) outcome = 'ok';
    else logger.warn('The invalidation webhook answered an error', { status: response.status });
    controller.abort(); // Nothing of the body is wanted.
  } catch (error) {
    logger.warn('The invalidation webhook failed', { reason: error instanceof Error ? error.message : String(error) });
  } finally {
    cancel();
  }
  metrics.countWebhookCall(outcome);
  return outcome;
}
