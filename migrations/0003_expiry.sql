ALTER TABLE `chunk` ADD `expires_at_ms` integer;
--> statement-breakpoint
-- cached_chunk shows when a chunk expires; SQLite has no ALTER VIEW, and hottest_chunk reads it.
DROP VIEW hottest_chunk;
--> statement-breakpoint
DROP VIEW cached_chunk;
--> statement-breakpoint
CREATE VIEW cached_chunk AS
SELECT
  chunk.generation,
  namespace.model,
  namespace.tenant,
  namespace.rank,
  namespace.label AS namespace,
  CASE typeof(chunk.key)
    WHEN 'text' THEN namespace.key_prefix || chunk.key || namespace.key_tail
    ELSE namespace.key_prefix || 'x''' || lower(hex(chunk.key)) || '''' || namespace.key_tail
  END AS key,
  chunk.size_bytes,
  coalesce((SELECT group_concat(tier, '+') FROM (SELECT DISTINCT tier FROM replica WHERE replica.generation = chunk.generation ORDER BY tier)), '') AS tiers,
  coalesce((SELECT max(dirty) FROM replica WHERE replica.generation = chunk.generation), 0) AS dirty,
  chunk.hit_count,
  chunk.token_count,
  chunk.checksum,
  chunk.parent_generation,
  datetime(chunk.created_at_ms / 1000, 'unixepoch') AS created_at,
  datetime(chunk.last_used_at_ms / 1000, 'unixepoch') AS last_used_at,
  datetime(chunk.expires_at_ms / 1000, 'unixepoch') AS expires_at,
  chunk.created_at_ms,
  chunk.last_used_at_ms,
  chunk.expires_at_ms
FROM chunk JOIN namespace ON namespace.id = chunk.namespace_id;
--> statement-breakpoint
CREATE VIEW hottest_chunk AS
SELECT hit_count, generation, model, tenant, key, size_bytes, tiers, created_at, last_used_at
FROM cached_chunk
WHERE hit_count > 0
ORDER BY hit_count DESC, last_used_at_ms DESC;
