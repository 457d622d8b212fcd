#!/bin/bash
# compose.yaml as docs/containers.md has people use it, on a finished study: compose-test.sh STUDY. Started with PostgreSQL's
# public image, or a replacement where that cannot be pulled; fed, backed up, removed, restored, cleared. Everything is in a
# copy with separate volumes and ports. Skipped, with the reason, where containers cannot reach each other by name.
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
printf '\n== compose.yaml\n'
skip() { echo "skipped: $*"; exit 0; }
fail() { echo "compose: $*" >&2; exit 1; }
mkdir -p build
work=$PWD/build/compose-test
study=$work/docker/study
rm -rf "$work"
mkdir -p "$work/docker"
cp -r "$1" "$study"

if [ "$engine" = docker ]; then
    docker compose version >/dev/null 2>&1 || skip "docker has no plugin compose here"
    compose=(docker compose)
else
    [ "$(id -u)" = 0 ] || skip "not tried with podman without root"
    [ -x /usr/lib/podman/aardvark-dns ] || skip "podman's containers have no names here (Debian: apt-get install netavark aardvark-dns)"
    .venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt --target "$work/tools" podman-compose
    compose=(env "PYTHONPATH=$work/tools" .venv/bin/python -m podman_compose)
fi

# The public image, or else Debian's PostgreSQL behind the same interface.
public=$(sed -n 's/.*DPDT_POSTGRES_IMAGE:-\(.*\)}".*/\1/p' docker/compose.yaml)
export DPDT_POSTGRES_IMAGE=$public
if ! "$engine" image inspect "$public" >/dev/null 2>&1 && ! timeout 90 "$engine" pull -q "$public" >/dev/null 2>&1; then
    base=${BASE:-localhost/dpdt-base:bookworm}
    "$engine" image inspect "$base" >/dev/null 2>&1 || skip "neither $public nor a base image for its replacement"
    DPDT_POSTGRES_IMAGE=localhost/dpdt-postgres-standin:15
    [ "$engine" != podman ] || options=(--format docker --network host)
    "$engine" build "${options[@]}" --build-arg "BASE=$base" -t "$DPDT_POSTGRES_IMAGE" -f docker/standin/Dockerfile . \
        > "$work/standin.log" 2>&1 || { tail -n 20 "$work/standin.log"; fail "no replacement for PostgreSQL"; }
fi
echo "PostgreSQL: $DPDT_POSTGRES_IMAGE"

probe=dpdt-compose-probe
"$engine" network create "$probe" > "$work/probe.log" 2>&1 \
    && "$engine" run --rm --network "$probe" --entrypoint true "$DPDT_POSTGRES_IMAGE" >> "$work/probe.log" 2>&1 || code=$?
"$engine" network rm -f "$probe" >/dev/null 2>&1 || true
[ -z "${code:-}" ] || skip "containers cannot have their own network here: $(tail -n 1 "$work/probe.log")"

# As the documentation says, in a copy.
cp docker/compose.yaml "$work/docker/"
cp -r mlflow "$work/"
export DPDT_UID DPDT_GID
DPDT_UID=$(id -u) DPDT_GID=$(id -g)
[ "$DPDT_UID" != 0 ] || DPDT_UID=1000 DPDT_GID=1000
own() { [ "$(id -u)" != 0 ] || chown -R 1000:1000 "$work"/docker/*/; }
(
    cd "$work"
    mkdir -p docker/secrets docker/artifacts docker/backups
    (umask 077; for name in postgres admin; do openssl rand -hex 24 > docker/secrets/${name}_password; done)
)
own
project=dpdt-compose-test
MLFLOW_PORT=$(PYTHONPATH=. .venv/bin/python -c 'from tests.ports import free_port; print(free_port())')
export MLFLOW_PORT MLFLOW_NAMES=mlflow.example
run() { # run PROFILES COMMAND...
    local profiles=()
    for profile in $1; do profiles+=(--profile "$profile"); done
    "${compose[@]}" -p "$project" -f "$work/docker/compose.yaml" "${profiles[@]}" "${@:2}" 2>> "$work/compose.log"
}
container() {
    "$engine" ps -q --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1"
}
healthy() { # by the check that compose.yaml has; podman runs it by itself only under systemd
    for _ in $(seq 180); do
        id=$(container "$1")
        if [ "$engine" = docker ]; then
            [ "$(docker inspect --format '{{ .State.Health.Status }}' "$id")" != healthy ] || return 0
        elif podman healthcheck run "$id" >/dev/null 2>&1; then
            return 0
        fi
        sleep 1
    done
    "$engine" logs "$id" 2>&1 | tail -n 30
    fail "$1 is not healthy after 180 tries"
}
end() {
    code=$?
    [ $code = 0 ] || tail -n 20 "$work/compose.log" >&2
    run "" down -v >/dev/null 2>&1 || true
    exit $code
}
trap end EXIT
client() { PYTHONPATH=. .venv/bin/python docker/compose_client.py "http://127.0.0.1:$MLFLOW_PORT" "$work" "$study" "$@"; }

run "" up -d >/dev/null
healthy postgres
healthy mlflow
client account
export MLFLOW_TRACKING_USERNAME=ana MLFLOW_TRACKING_PASSWORD="a password for ana"
.venv/bin/dpdt sync "$study" --to "http://127.0.0.1:$MLFLOW_PORT" > "$work/sync.log"
head -n 1 "$work/sync.log"
client equal
run study run --rm -T dpdt sync /study --to http://mlflow:5000 | grep ' 0 with news' \
    || fail "the service dpdt does not see the same runs"
backup=$(run backup run --rm -T backup | grep -o '/backup/[0-9TZ]*') || fail "no backup"

run "" down -v >/dev/null
rm -rf "$work/docker/artifacts"
mkdir "$work/docker/artifacts"
own
run "" up -d postgres >/dev/null
healthy postgres
run backup run --rm -T backup /opt/mlflow/restore.sh "$backup" | grep restored || fail "not restored"
run "" up -d >/dev/null
healthy mlflow
client equal
client delete
MLFLOW_KEEP_DELETED=1s MLFLOW_KEEP_BACKUPS=0 run backup run --rm -T retention | grep "removed $backup" || fail "the backup stays"
client gone
