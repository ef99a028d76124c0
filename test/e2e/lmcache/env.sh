# Sourced by the scripts here: the environment of the real client, that of all Python lanes (test/e2e/engines).
engines=$(cd "$(dirname "${BASH_SOURCE[0]}")/../engines" && pwd)
venv=$("$engines/setup.sh" path)
# No usage report leaves the machine, and nothing is looked up on a model hub.
export LMCACHE_TRACK_USAGE=false LMCACHE_DISABLE_BANNER=1 HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 NO_COLOR=1
if [ ! -x "$venv/bin/lmcache" ]; then
  echo "No lmcache in $venv: run test/e2e/engines/setup.sh first" >&2
  exit 2
fi
