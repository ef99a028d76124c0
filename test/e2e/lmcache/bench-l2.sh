#!/usr/bin/env bash
# Runs `lmcache bench l2` (store, lookup, load, byte comparison of the last round) against HOST PORT.
#   KVTIER_E2E_SIZES_KB  sizes of one object (default "4 256 4096 32768"; all sizes use the same keys, so every
#                        size after the first overwrites)
#   KVTIER_E2E_KEYS      keys per submit (default 16, 8 from 32 MiB on: four rounds keep 1 GiB)
#   KVTIER_E2E_WORKERS   sockets (default 8)
#   KVTIER_E2E_ADAPTER   more fields of the adapter, as JSON (default {}), e.g. {"password":"secret"}
# Exit code: lmcache's own, or 1 when it says 0 but lost keys. Its own only looks at the byte comparison: a lookup or
# a store that failed is a number in its report and no more (lmcache 0.5.6, l2_adapter_bench/command.py).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
host=$1 port=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
adapter=$("$venv/bin/python" -c 'import json,sys; print(json.dumps({"type":"resp","host":sys.argv[1],"port":int(sys.argv[2]),"num_workers":int(sys.argv[3]),**json.loads(sys.argv[4])}))' \
  "$host" "$port" "${KVTIER_E2E_WORKERS:-8}" "${KVTIER_E2E_ADAPTER:-{\}}")
status=0
for size in ${KVTIER_E2E_SIZES_KB:-4 256 4096 32768}; do
  code=0
  keys=${KVTIER_E2E_KEYS:-$((size < 32768 ? 16 : 8))}
  timeout 300 "$venv/bin/lmcache" bench l2 --l2-adapter "$adapter" --no-skip-verify --rounds 3 --warmup-rounds 1 \
    --num-keys "$keys" --lookup-max-hit-rate 1.0 --data-size-kb "$size" \
    --format json --output "$work/$size.json" >"$work/$size.log" 2>&1 || code=$?
  if [ "$code" != 0 ]; then
    echo "bench-l2: ${size} KiB: lmcache exited with $code"
    tail -30 "$work/$size.log"
    status=$code
    continue
  fi
  grep -E '^\[?.*\[Verify\] (All|WARN|ERR|MIS)' "$work/$size.log" || true
  "$venv/bin/python" - "$work/$size.json" "$size" <<'P' || status=1
import json, sys
metrics = json.load(open(sys.argv[1]))["metrics"]
bad = 0
for op in (v for k, v in metrics.items() if k.startswith("op_")):
    lost = op["total_keys"] - op["total_success"]
    bad += lost != 0 or op["rounds_timed_out"] != 0
    print(f'bench-l2: {int(sys.argv[2]):6d} KiB {op["operation"]:7s} {op["throughput_avg_mbps"]:9.2f} MB/s '
          f'{op["ops_per_sec_avg"]:10.2f} ops/s  {op["total_success"]}/{op["total_keys"]} keys, {op["rounds_timed_out"]} timed out')
sys.exit(1 if bad else 0)
P
done
exit $status
