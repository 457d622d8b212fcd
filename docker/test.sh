#!/bin/bash
# Check the image dpdt:cpu as it is meant to be run: no network, read-only, no capabilities, 2 GB (`make image-test`).
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
need_image cpu
python=.venv/bin/python
work=build/image-test
max_bytes=1800000000
rm -rf "$work"
mkdir -p "$work"/{image,here}

# Files that the container makes belong to whoever runs this; as root they belong to the image's own user.
user=()
if [ "$(id -u)" = 0 ]; then
    chown 1000:1000 "$work/image"
elif [ "$engine" = podman ]; then
    user=(--userns keep-id)
else
    user=(--user "$(id -u):$(id -g)")
fi
run() { # run [OPTION...] IMAGE ARGUMENT...
    "$engine" run --rm --network none --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges \
        --memory 2g --pids-limit 512 "${user[@]}" "$@"
}
step() { printf '\n== %s\n' "$*"; }
fail() {
    echo "image-test: $*" >&2
    exit 1
}

step "one version: image label, wheel, C++ core"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
label=$("$engine" image inspect --format '{{ index .Config.Labels "org.opencontainers.image.version" }}' dpdt:cpu)
wheel=$(run dpdt:cpu --version)
core=$(run --entrypoint python dpdt:cpu -c 'from dpdt import _core; print(_core.__version__)')
echo "pyproject.toml $version, label $label, wheel $wheel, core $core"
[ "$version $version $version" = "$label $wheel $core" ] || fail "the versions differ"

step "an ordinary user; nothing of the host's Python reaches in"
[ "$(run --entrypoint id dpdt:cpu -u)" != 0 ] || fail "it runs as root"
[ "$("$engine" image inspect --format '{{ .Config.User }}' dpdt:cpu)" = 1000:1000 ] || fail "the image names another user"
run -e PYTHONPATH=/study/not-there -e HOME=/study --entrypoint python dpdt:cpu -c '
import site, sys
assert not site.ENABLE_USER_SITE, "~/.local is on the path"
import dpdt
assert dpdt.__file__.startswith("/opt/dpdt/"), dpdt.__file__'

step "layers"
"$engine" save -o "$work/layers.tar" dpdt:cpu
$python docker/scan_layers.py "$work/layers.tar" || fail "see above"
rm "$work/layers.tar"

step "size"
bytes=$("$engine" image inspect --format '{{ .Size }}' dpdt:cpu)
echo "dpdt:cpu $((bytes / 1000000)) MB (at most $((max_bytes / 1000000)) MB)"
run --entrypoint sh dpdt:cpu -c 'cd /opt/dpdt/lib/python3*/site-packages && du -sm -- * | sort -rn | head -n 12'
[ "$bytes" -le "$max_bytes" ] || fail "too large"

step "bill of materials"
run --entrypoint python dpdt:cpu -c '
import json
bom = json.load(open("/opt/dpdt/share/dpdt/sbom.cdx.json"))
names = {part["name"] for part in bom["components"]}
missing = {"torch", "dpdt", "mlflow", "libjpeg62-turbo", "python3.11"} - names
assert not missing, f"not in the bill of materials: {missing}"
print(bom["bomFormat"], bom["specVersion"], len(names), "components")'

step "dpdt doctor"
run dpdt:cpu doctor

step "smoke tests"
# pytest is not in the image; it comes in like the tests do. CI=true: hypothesis wants no folder for its examples.
.venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt --no-deps --target "$work/pytest" \
    --python-version 3.11 --only-binary :all: hypothesis iniconfig pluggy pytest pytest-timeout sortedcontainers
run -v "$PWD/tests:/src/tests:ro" -v "$PWD/pyproject.toml:/src/pyproject.toml:ro" -v "$PWD/$work/pytest:/pytest:ro" -w /src \
    -e PYTHONPATH=/pytest -e CI=true --entrypoint python dpdt:cpu -m pytest -q -p no:cacheprovider -m "not slow" \
    tests/test_core.py tests/test_shards.py tests/test_ledger.py tests/test_runs.py tests/test_train.py tests/test_cli.py

step "the demo, small"
run -v "$PWD/$work/image:/study" dpdt:cpu demo --folder /study/demo --patients 40 > "$work/demo.log" 2>&1 \
    || { tail -n 40 "$work/demo.log"; fail "the demo failed"; }
grep -m 1 -A 4 'Macro AUC' "$work/demo.log"
digest=$(run --entrypoint cat dpdt:cpu /opt/dpdt/share/dpdt/image.txt)
grep -q "$digest" "$work"/image/demo/runs/*/config.json || fail "the runs do not name the image ($digest)"
run -v "$PWD/$work/image:/study" dpdt:cpu verify /study/demo/study.toml

step "a study that the image made, opened here"
cp -r "$work/image/demo" "$work/opened" # another place, and another user's
.venv/bin/dpdt sync "$work/opened/study.toml"
$python -c "
from mlflow import MlflowClient
client = MlflowClient('sqlite:///$PWD/$work/opened/mlflow.db')
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
assert runs and all(client.list_artifacts(run.info.run_id) for run in runs), 'MLflow finds no artifacts'"
[ ! -e /study ] || fail "the container's folder was made on the host"

step "the same bytes in the image and in .venv"
$python -c "
from pathlib import Path
from dpdt.cohort.synthetic.demo_study import make_demo_study
make_demo_study(Path('$work/here'), patients=40)"
# The same way as in the image, for another number of threads rounds in another way; but without the private arms.
sed -i 's/^target_epsilons = .*/target_epsilons = [inf]/' "$work/here/study.toml"
.venv/bin/dpdt submit "$work/here/study.toml" --stages cohort,shards,pretrain,train > "$work/here.log" 2>&1 \
    || { tail -n 40 "$work/here.log"; fail "the demo failed in .venv"; }
code=0
$python docker/compare.py "$work/here" "$work/image/demo" || code=$?
case $code in
    0) ;;
    3) [ -z "${CI:-}" ] || fail ".venv has other libraries than the image" ;; # as with CUDA's build of torch
    *) fail "they differ" ;;
esac

docker/server.sh
docker/lint.sh
docker/resolve.sh
docker/apptainer.sh
printf '\nimage-test: all good\n'
