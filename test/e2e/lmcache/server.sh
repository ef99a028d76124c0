#!/usr/bin/env bash
# The full multi-process stack without a model: `lmcache server` in front of a RESP server, and `lmcache bench server`
# in the place of an engine.
#   server.sh start DIR HOST PORT   starts `lmcache server` on free ports; its pid, ports and log go to DIR
#   server.sh bench DIR [PROMPTS] [PAUSE]   runs `lmcache bench server --mode cpu` (default 3 prompts, pauses of 0.5 s);
#                                   output in DIR/bench.log too
#   server.sh stop DIR              stops it by its own pid
# `bench` exits 0 whatever it found (0.5.6: only a failed start is an error), so read its lines.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
command=$1 dir=$2
mkdir -p "$dir"

stop() {
  [ -f "$dir/pid" ] || return 0
  local pid
  pid=$(cat "$dir/pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  # It joins its RESP sockets' threads, which never return when the peer is gone: that is no failure of ours.
  kill -0 "$pid" 2>/dev/null && { echo "server.sh: lmcache server $pid did not stop in 20 s, killing it"; kill -9 "$pid" 2>/dev/null || true; }
  rm -f "$dir/pid" "/dev/shm/lmcache_l1_pool_$(cat "$dir/shm")"
}

case $command in
  start)
    host=$3 port=$4
    read -r rpc http < <("$venv/bin/python" -c '
import socket
a, b = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
    echo "$rpc" >"$dir/rpc-port"; echo "$http" >"$dir/http-port"; echo "kvtier-$$" >"$dir/shm"
    # skip_l1: L1 is a write buffer only, so every lookup is answered by our door. noop: nothing else leaves L1.
    "$venv/bin/lmcache" server --host 127.0.0.1 --port "$rpc" --http-host 127.0.0.1 --http-port "$http" \
      --l1-size-gb "${KVTIER_E2E_L1_GB:-1}" --l1-init-size-gb "${KVTIER_E2E_L1_GB:-1}" --chunk-size 256 \
      --supported-transfer-mode engine_driven --shm-name "$(cat "$dir/shm")" --eviction-policy noop \
      --l2-store-policy skip_l1 --l2-prefetch-policy default --disable-observability \
      --l2-adapter "{\"type\":\"resp\",\"host\":\"$host\",\"port\":$port}" >"$dir/server.log" 2>&1 &
    pid=$!
    echo "$pid" >"$dir/pid"
    for _ in $(seq 300); do
      kill -0 "$pid" 2>/dev/null || { echo "server.sh: lmcache server ended:" >&2; tail -20 "$dir/server.log" >&2; exit 1; }
      "$venv/bin/python" -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$http/healthcheck', timeout=1)" 2>/dev/null && { echo "server.sh: pid $pid, rpc $rpc, http $http"; exit 0; }
      sleep 0.1
    done
    echo "server.sh: lmcache server gave no answer in time:" >&2; tail -20 "$dir/server.log" >&2; stop; exit 1 ;;
  bench)
    # 32 layers, 8 heads of 128, float16: a chunk of 256 tokens is 32 MiB, as with an 8B model. 256 blocks of 16
    # tokens are what three prompts of 1024 tokens need (the default, 1024 blocks, fills 2 GiB with random numbers).
    timeout 300 "$venv/bin/lmcache" bench server --rpc-url "tcp://127.0.0.1:$(cat "$dir/rpc-port")" \
      --url "http://127.0.0.1:$(cat "$dir/http-port")" --mode cpu --transfer-mode engine_driven \
      --kvcache-shape-spec '(2,256,16,8,128):float16:32' --num-blocks 256 --num-tokens 1024 --interval "${4:-0.5}" \
      --end "${3:-3}" 2>&1 | tee "$dir/bench.log" ;;
  stop) stop ;;
  *) echo "server.sh: unknown command $command" >&2; exit 2 ;;
esac
