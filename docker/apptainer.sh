#!/bin/bash
# The Apptainer file from the image, where apptainer is installed: build it (which runs its %test), and see that the
# host's Python does not reach into it.
#   docker/apptainer.sh         saves dpdt:cpu first; with an argument, that archive is taken
set -euo pipefail
cd "$(dirname "$0")/.."
printf '\n== Apptainer\n'
if ! command -v apptainer >/dev/null; then
    echo "skipped: apptainer is not installed here"
    exit 0
fi
archive=${1:-build/image/dpdt-cpu.tar}
[ $# = 1 ] || docker/save.sh cpu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
apptainer build --build-arg FROM="$archive" "$work/dpdt.sif" docker/dpdt.def

# What a user may have at home, or in the shell that submits: a dpdt that would fail if it were imported.
mkdir -p "$work/home/.local/lib/python3.11/site-packages/dpdt"
echo 'raise SystemExit("the dpdt of the host")' > "$work/home/.local/lib/python3.11/site-packages/dpdt/__init__.py"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
for cleanenv in "" --cleanenv; do
    found=$(PYTHONPATH="$work/home/.local/lib/python3.11/site-packages" \
        apptainer -s run $cleanenv --home "$work/home" "$work/dpdt.sif" --version)
    [ "$found" = "$version" ] || { echo "apptainer run $cleanenv: version $found, expected $version" >&2; exit 1; }
done
[ -n "$(PYTHONHOME="$work" apptainer -s run "$work/dpdt.sif" --version)" ]
echo "built, tested; ~/.local and PYTHONPATH do not reach in"
