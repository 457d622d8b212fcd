#!/bin/bash
# The image as the team's tracking server, started as compose.yaml starts it (mlflow/serve.sh), over a real PostgreSQL. The
# container has no network: it reaches the database by its socket. Skipped where PostgreSQL is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
printf '\n== tracking server over PostgreSQL\n'
programs=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort | tail -n 1)
programs=${programs%/initdb}
as_user=()
[ "$(id -u)" != 0 ] || as_user=(runuser -u postgres --) # PostgreSQL refuses to run as root
if [ -z "$programs" ]; then
    echo "skipped: no PostgreSQL here (Debian: apt-get install postgresql)"
    exit 0
fi
work=$(mktemp -d)
container=""
end() {
    [ -z "$container" ] || "$engine" rm -f "$container" >/dev/null
    (cd / && "${as_user[@]}" "$programs/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1) || true
    rm -rf "$work"
}
trap end EXIT
mkdir -m 777 "$work/data" "$work/socket"
chmod 755 "$work"
[ "$(id -u)" != 0 ] || chown postgres "$work" "$work/data" "$work/socket"
echo "a-password-of-this-test" > "$work/admin"
(
    cd /
    "${as_user[@]}" "$programs/initdb" -D "$work/data" -U mlflow --auth trust -E UTF8 --no-sync >/dev/null
    "${as_user[@]}" "$programs/pg_ctl" -D "$work/data" -w -l "$work/data/log" \
        -o "-c listen_addresses='' -k $work/socket -c unix_socket_permissions=0777" start >/dev/null
)
for database in mlflow mlflow_auth; do "$programs/createdb" -h "$work/socket" -U mlflow "$database"; done

container=$("$engine" run -d --network none --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges --memory 2g \
    -v "$work/socket:/run/postgresql" -v "$work/admin:/run/secrets/admin_password:ro" -v "$PWD/mlflow:/opt/mlflow:ro" \
    -e PGHOST=/run/postgresql -e PGUSER=mlflow -e MLFLOW_AUTH_ADMIN_PASSWORD_FILE=/run/secrets/admin_password \
    -e MLFLOW_ARTIFACTS_DESTINATION=/tmp/artifacts -e MLFLOW_WORKERS=1 --entrypoint /bin/sh dpdt:cpu /opt/mlflow/serve.sh)
code=0
"$engine" exec -i "$container" python - <<'PYTHON' || code=$?
import base64, json, time, urllib.error, urllib.request

SERVER = "http://127.0.0.1:5000"
CREATE = SERVER + "/api/2.0/mlflow/experiments/create"


def post(**headers):
    data = json.dumps({"name": "image-test"}).encode()
    request = urllib.request.Request(CREATE, data, {"Content-Type": "application/json", **headers})
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as err:
        return err.code


for _ in range(120):
    try:
        urllib.request.urlopen(SERVER + "/health", timeout=4)
        break
    except OSError:
        time.sleep(1)
password = open("/run/secrets/admin_password").read().strip()
account = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
found = post(), post(Authorization=account)
assert found == (401, 200), f"without an account {found[0]}, expected 401; as admin {found[1]}, expected 200"
PYTHON
rows=$("$programs/psql" -XAtq -h "$work/socket" -U mlflow mlflow -c "SELECT count(*) FROM experiments WHERE name = 'image-test'" || echo none)
if [ "$code" != 0 ] || [ "$rows" != 1 ]; then
    "$engine" logs "$container" 2>&1 | tail -n 30
    echo "server: exit code $code, $rows experiments in the database, expected 1" >&2
    exit 1
fi
echo "a password is asked for; the experiment is in PostgreSQL"
