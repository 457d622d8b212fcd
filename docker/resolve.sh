#!/bin/sh
# Can every package of the cuda target be had, at its pin? Reads the packages' metadata alone; downloads no wheel.
set -eu
cd "$(dirname "$0")/.."
printf '\n== pins of the cuda target\n'
uv=$(command -v uv || echo .venv/bin/uv)
[ -x "$uv" ] || .venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt uv
mkdir -p build/image-test
if ! .venv/bin/python -c "import urllib.request as r; r.urlopen('${CUDA_TORCH_INDEX:-https://pypi.org/simple}/torch/', timeout=30)" \
    2> build/image-test/resolve.log; then
    echo "skipped: $(tail -n 1 build/image-test/resolve.log)"
    exit 0
fi
env -u PIP_FIND_LINKS "$uv" pip compile -q --no-config --no-annotate --no-header --native-tls \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    ${CUDA_TORCH_INDEX:+--index "$CUDA_TORCH_INDEX"} --extra server --extra networks -c constraints.txt pyproject.toml -o build/image-test/cuda.txt
unpinned=$(sed 's/[=;].*//' build/image-test/cuda.txt | while read -r name; do
    tr '_.' '--' < constraints.txt | grep -qi "^$name==" || echo "$name"
done)
[ -z "$unpinned" ] || { echo "not in constraints.txt:" $unpinned; exit 1; }
echo "$(wc -l < build/image-test/cuda.txt) packages resolved, all pinned: $(grep -E '^(torch|nvidia-cudnn)' build/image-test/cuda.txt | paste -sd ' ')"
