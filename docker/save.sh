#!/bin/bash
# Save dpdt:TARGET as build/image/dpdt-TARGET.tar, which docker, podman and apptainer read, and its checksum.
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
need_image "$1"
file=dpdt-$1.tar
mkdir -p build/image
rm -f "build/image/$file"
if [ "$engine" = podman ]; then format=(--format docker-archive); else format=(); fi
"$engine" save "${format[@]}" -o "build/image/$file" "dpdt:$1"
(cd build/image && sha256sum "$file" > "$file.sha256")
echo "build/image/$file, $(du -h "build/image/$file" | cut -f1); image $("$engine" image inspect --format '{{ .Id }}' "dpdt:$1")"
