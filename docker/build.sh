#!/bin/bash
# Build dpdt's image: docker/build.sh TARGET...   (cpu, cuda; tagged dpdt:TARGET)
#   BASE=…                 another base image (Debian 12)
#   TORCH_INDEX=…          another index for torch's CPU build
# What this machine needs to reach PyPI is given to the steps that need it, and is in no layer:
#   PIP_CERT=…             certificate bundle
#   DPDT_PIP_CONF=…        a pip.conf (mirror, …); the bundle is at /run/secrets/ca
#   PIP_FIND_LINKS=…       a folder of wheels (podman only)
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
base=${BASE:-debian:bookworm-slim}
secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT

# Layers of former builds make the next one short; each leaves some GiB. They go when the disk is nearly full, from root's
# own store alone (docker/engine.sh). A build from nothing was seen to write 11 GiB, to keep 6.
room=12
nearly_full() { [ "$(df --output=avail -BG "$cache" | tail -n 1 | tr -dc 0-9)" -lt "$room" ]; }
if [ "$engine" = podman ] && [ "$(id -u)" = 0 ] && nearly_full; then
    "$engine" image prune -f >/dev/null
    if nearly_full; then
        echo "Less than $room GiB are free in $cache, and an image's build can need as much: make room." >&2
        exit 3
    fi
fi

# The Debian archive with SUITE-updates, or that with SUITE-security, of this machine's apt, which reads both formats of its
# sources. Other archives have no such suites.
apt_archive() {
    apt-get update --print-uris 2>/dev/null \
        | sed -nE "s#^'(https?://[^@']*/debian[^']*)/dists/[a-z]+-$1/.*#\1#p" | head -n 1 || true
}

# Where no registry can be reached, the same Debian release is made from its packages.
bootstrap_base() {
    if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
        echo "$base: cannot be pulled, and debootstrap (as root) is not there to make it. Load an image and give BASE=…" >&2
        exit 3
    fi
    echo "$base cannot be pulled: making a Debian 12 base image with debootstrap"
    local root="$cache/base-root" mirror security
    mirror=$(apt_archive updates) security=$(apt_archive security)
    rm -rf "$root"
    mkdir -p "$cache"
    debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} > "$cache/debootstrap.log" # or its own default
    rm -rf "$root"/etc/{resolv.conf,hostname} "$root"/var/{log,cache/apt,lib/apt/lists}/* "$root"/usr/share/{man,locale,info}/*
    find "$root/usr/share/doc" -type f ! -name copyright -delete
    [ -z "$mirror" ] || echo "deb $mirror bookworm-updates main" >> "$root/etc/apt/sources.list"
    [ -z "$security" ] || echo "deb $security bookworm-security main" >> "$root/etc/apt/sources.list"
    tar -C "$root" -c . | "$engine" import - "$1" >/dev/null
    rm -rf "$root"
}

if ! "$engine" image inspect "$base" >/dev/null 2>&1 && ! timeout 90 "$engine" pull -q "$base" >/dev/null 2>&1; then
    made=localhost/dpdt-base:bookworm
    "$engine" image inspect "$made" >/dev/null 2>&1 || bootstrap_base "$made"
    base=$made
fi

if [ -n "${DPDT_PIP_CONF:-}" ]; then
    cat "$DPDT_PIP_CONF" > "$secrets/pip.conf"
elif [ -n "${PIP_CERT:-}" ]; then
    printf '[global]\ncert = /run/secrets/ca\n' > "$secrets/pip.conf"
fi
touch "$secrets/pip.conf"
cat "${PIP_CERT:-/dev/null}" > "$secrets/ca"
options=(--secret "id=pip_conf,src=$secrets/pip.conf" --secret "id=ca,src=$secrets/ca")
if [ "$engine" = podman ]; then
    options+=(--format docker --layers --network host)
    if [ -d "${PIP_FIND_LINKS:-}" ]; then
        options+=(-v "$(realpath "$PIP_FIND_LINKS"):/run/wheels:ro")
        printf '[install]\nfind-links = /run/wheels\n' >> "$secrets/pip.conf"
    fi
fi
[ -z "${TORCH_INDEX:-}" ] || options+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for target in "$@"; do
    echo "Building dpdt:$target with $engine"
    DOCKER_BUILDKIT=1 "$engine" build "${options[@]}" --build-arg "BASE=$base" --build-arg "VERSION=$version" \
        --build-arg "REVISION=$revision" --target "$target" -f docker/Dockerfile -t "dpdt:$target" .
done
