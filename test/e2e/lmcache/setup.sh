#!/usr/bin/env bash
# Makes the virtual environment that holds the real, unmodified lmcache client. Idempotent: a finished one is kept,
# an unfinished one is made again. Prints its path, seconds and size; other scripts here call it first.
#
#   KVTIER_E2E_VENV     where (default $HOME/.cache/kvtier/lmcache-venv; never inside the repository)
#   KVTIER_E2E_PYTHON   which python (default python3; lmcache 0.5.6 has wheels for 3.10 to 3.13, pins are from 3.11)
#   KVTIER_E2E_TORCH    slim (default): torch's wheel plus stand-ins for its CUDA libraries, 0.7 GB down, 1.9 GB on disk
#                       full: torch with all its CUDA dependencies, 3 GB down, 6 GB on disk. Also taken when there is
#                       no cc/readelf/nm, or when the slim one does not import.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${KVTIER_E2E_VENV:-$HOME/.cache/kvtier/lmcache-venv}
python=${KVTIER_E2E_PYTHON:-python3}
flavour=${KVTIER_E2E_TORCH:-slim}
lmcache_version=0.5.6
# lmcache's wheel is built against torch 2.13: its cuda_ops wants c10_cuda_check_implementation(int, const char*,
# const char*, int, bool), which 2.14 changed. lmcache_redis, _native and _fs use no torch symbol, so another torch
# works as well (2.15.0 was tried), but there is no reason to differ from the build.
torch_version=2.13.0
export LMCACHE_TRACK_USAGE=false LMCACHE_DISABLE_BANNER=1 PIP_DISABLE_PIP_VERSION_CHECK=1

if [ "$flavour" = slim ]; then
  for tool in cc readelf nm; do
    command -v "$tool" >/dev/null || { echo "setup: no $tool, so torch comes with all its CUDA libraries"; flavour=full; }
  done
fi
case $flavour in slim | full) ;; *) echo "KVTIER_E2E_TORCH is '$flavour', wanted: slim or full" >&2; exit 2 ;; esac

stamp="lmcache=$lmcache_version torch=$torch_version $flavour $("$python" --version 2>&1) $(cat "$here/requirements.txt" "$here/cuda_stubs.py" | sha256sum | cut -c1-16)"
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
if [ -f "$venv/kvtier-stamp" ] && [ "$(cat "$venv/kvtier-stamp")" = "$stamp" ] && works; then
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
  local pip=("$venv/bin/python" -m pip install --quiet --no-cache-dir)
  "${pip[@]}" -r "$here/requirements.txt"
  "${pip[@]}" --no-deps "lmcache==$lmcache_version"
  if [ "$1" = slim ]; then
    "${pip[@]}" --no-deps "torch==$torch_version"
    "$venv/bin/python" "$here/cuda_stubs.py" "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  else
    "${pip[@]}" "torch==$torch_version"
  fi
}
echo "setup: making $venv ($stamp)"
build "$flavour"
if ! works && [ "$flavour" = slim ]; then
  echo "setup: the slim environment does not import; making the full one"
  build full
fi
works || { echo "setup: 'from lmcache.lmcache_redis import LMCacheRedisClient' fails:" >&2; "$venv/bin/python" -c 'from lmcache.lmcache_redis import LMCacheRedisClient' >&2; exit 1; }
echo "$stamp" >"$venv/kvtier-stamp"
echo "setup: $venv made in $(($(date +%s) - started)) s, $(du -sm "$venv" | cut -f1) MiB"
