#!/bin/sh
# A venv for `make gpu-check` where there is no network: torch is that of $PYTHON, what else is missing comes from the
# wheels of `make gpu-carry`, and the core is built without image codecs (it needs a C++ compiler and Python's headers).
set -eu
venv=$1
python=${PYTHON:-python3}
"$python" -c "import torch" || {
    echo "make gpu-check: $python has no torch. Set PYTHON to the one that has it." >&2
    exit 1
}
"$python" -m venv --system-site-packages "$venv"
PATH=$(realpath "$venv/bin"):$PATH
pip install -q --disable-pip-version-check --no-index --no-deps --find-links build/gpu-carry -r benchmarks/gpu_needs.txt
pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation -C cmake.define.DPDT_CODECS=OFF -e .
