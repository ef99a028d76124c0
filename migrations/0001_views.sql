-- Views for people with a sqlite3 shell; docs/queries.md shows them in use. Times are UTC.
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
  chunk.created_at_ms,
  chunk.last_used_at_ms
FROM chunk JOIN namespace ON namespace.id = chunk.namespace_id;
--> statement-breakpoint
CREATE VIEW usage_by_tier AS
SELECT
  replica.tier,
  replica.folder,
  count(*) AS chunk_count,
  sum(chunk.size_bytes) AS size_bytes,
  round(sum(chunk.size_bytes) / 1048576.0, 1) AS size_mib,
  sum(replica.dirty) AS dirty_chunk_count,
  sum(replica.dirty * chunk.size_bytes) AS dirty_bytes,
  datetime(min(chunk.last_used_at_ms) / 1000, 'unixepoch') AS coldest_used_at,
  datetime(max(chunk.last_used_at_ms) / 1000, 'unixepoch') AS hottest_used_at
FROM replica JOIN chunk ON chunk.generation = replica.generation
GROUP BY replica.tier, replica.folder;
--> statement-breakpoint
CREATE VIEW usage_by_model AS
SELECT
  namespace.model,
  count(*) AS chunk_count,
  sum(chunk.size_bytes) AS size_bytes,
  round(sum(chunk.size_bytes) / 1048576.0, 1) AS size_mib,
  sum(CASE WHEN EXISTS (SELECT 1 FROM replica WHERE replica.generation = chunk.generation AND replica.tier = 'ram') THEN chunk.size_bytes ELSE 0 END) AS ram_bytes,
  sum(CASE WHEN EXISTS (SELECT 1 FROM replica WHERE replica.generation = chunk.generation AND replica.tier = 'ssd') THEN chunk.size_bytes ELSE 0 END) AS ssd_bytes,
  sum(chunk.hit_count) AS hit_count,
  count(DISTINCT namespace.tenant) AS tenant_count,
  datetime(max(chunk.last_used_at_ms) / 1000, 'unixepoch') AS last_used_at
FROM chunk JOIN namespace ON namespace.id = chunk.namespace_id
GROUP BY namespace.model;
--> statement-breakpoint
CREATE VIEW usage_by_tenant AS
SELECT
  namespace.tenant,
  count(*) AS chunk_count,
  sum(chunk.size_bytes) AS size_bytes,
  round(sum(chunk.size_bytes) / 1048576.0, 1) AS size_mib,
  sum(CASE WHEN EXISTS (SELECT 1 FROM replica WHERE replica.generation = chunk.generation AND replica.tier = 'ram') THEN chunk.size_bytes ELSE 0 END) AS ram_bytes,
  sum(CASE WHEN EXISTS (SELECT 1 FROM replica WHERE replica.generation = chunk.generation AND replica.tier = 'ssd') THEN chunk.size_bytes ELSE 0 END) AS ssd_bytes,
  sum(chunk.hit_count) AS hit_count,
  count(DISTINCT namespace.model) AS model_count,
  datetime(max(chunk.last_used_at_ms) / 1000, 'unixepoch') AS last_used_at
FROM chunk JOIN namespace ON namespace.id = chunk.namespace_id
GROUP BY namespace.tenant;
--> statement-breakpoint
CREATE VIEW hottest_chunk AS
SELECT hit_count, generation, model, tenant, key, size_bytes, tiers, created_at, last_used_at
FROM cached_chunk
WHERE hit_count > 0
ORDER BY hit_count DESC, last_used_at_ms DESC;
--> statement-breakpoint
-- One row a chunk, with the chunk its chain begins at and its distance from there. A chunk whose parent has gone begins a chain.
CREATE VIEW chain AS
WITH RECURSIVE link (root_generation, generation, depth) AS (
  SELECT generation, generation, 0
  FROM chunk
  WHERE parent_generation IS NULL OR parent_generation NOT IN (SELECT generation FROM chunk)
  UNION ALL
  SELECT link.root_generation, chunk.generation, link.depth + 1
  FROM link JOIN chunk ON chunk.parent_generation = link.generation
)
SELECT link.root_generation, link.depth, link.generation, chunk.parent_generation, namespace.model, namespace.tenant, chunk.size_bytes, chunk.token_count
FROM link
JOIN chunk ON chunk.generation = link.generation
JOIN namespace ON namespace.id = chunk.namespace_id;
--> statement-breakpoint
CREATE VIEW invalidation_log AS
SELECT
  datetime(at_ms / 1000, 'unixepoch') AS at,
  actor,
  reason,
  selector,
  matched_chunks,
  removed_bytes,
  round(removed_bytes / 1048576.0, 1) AS removed_mib,
  generation,
  id
FROM invalidation
ORDER BY at_ms DESC, generation DESC;
