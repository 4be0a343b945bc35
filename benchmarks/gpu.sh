#!/usr/bin/env bash
# Smoke tests, `ta benchmark` and the quickstart on a machine with a GPU that has PyTorch and nothing of ours.
#
#   benchmarks/gpu.sh --wheels        # elsewhere, with a network: gathers what such a machine lacks into .whl
#   benchmarks/gpu.sh                 # there: about 5 minutes; a table, and gpu.json
#   benchmarks/gpu.sh --full          # up to 12: also the largest batch, compiled layers, sdpa, all projectors
#   benchmarks/gpu.sh --device cpu    # tries the script itself, tiny
#
# Its Python 3.12 has torch 2.11, transformers 5.17 and peft, and with them accelerate, numpy, safetensors, matplotlib,
# psutil, pytest and pytest-xdist, pyarrow, pandas, rich and pyyaml. Left out of the wheels, since nothing here imports
# them: wandb, optuna (`ta sweep`), lhotse.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-.whl}

if [ "${1:-}" = --wheels ]; then
  mkdir -p "$WHEELS"
  platforms=()
  for name in manylinux_2_{28,27,24,17,12}_x86_64 manylinux2014_x86_64 manylinux1_x86_64; do
    platforms+=(--platform "$name")
  done
  "$PYTHON" -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" -d "$WHEELS" 'hydra-core<1.4' 'omegaconf<2.4' soundfile cffi pycparser soxr kaldialign \
    whisper-normalizer more-itertools datasets 'dill<0.4.2' 'multiprocess<0.70.20'
  exec "$PYTHON" -m pip wheel --no-deps -w "$WHEELS" 'antlr4-python3-runtime==4.9.*' # has no wheel of its own
fi

if compgen -G "$WHEELS/*.whl" >/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" benchmarks/gpu.py "$@"
