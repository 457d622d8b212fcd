#!/bin/sh
# The team's MLflow server: PostgreSQL, an artifact store, and a password for everybody. Settings: settings.sh, README.md.
#
#   MLFLOW_AUTH_ADMIN_PASSWORD_FILE=… mlflow/serve.sh
#
# It listens on 127.0.0.1:5000 (MLFLOW_HOST, MLFLOW_PORT), where a proxy with TLS finds it: nginx.conf.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
set -a
# shellcheck source=/dev/null
. "$here/server.env"
set +a
# shellcheck source=settings.sh
. "$here/settings.sh"
host=${MLFLOW_HOST:-127.0.0.1}

set -- --backend-store-uri "$(uri "$MLFLOW_DATABASE")" --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" \
    --host "$host" --port "${MLFLOW_PORT:-5000}" --workers "${MLFLOW_WORKERS:-2}" \
    --allowed-hosts "localhost:*,127.0.0.1:*${MLFLOW_NAMES:+,$MLFLOW_NAMES}"

if [ "${MLFLOW_AUTHENTICATION:-basic}" = none ]; then
    case $host in
        127.0.0.1 | localhost | ::1) ;;
        *) echo "warning: MLflow on $host without authentication: whoever reaches it can read and change all runs." >&2 ;;
    esac
else
    [ -z "${MLFLOW_AUTH_ADMIN_PASSWORD_FILE:-}" ] || MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "$MLFLOW_AUTH_ADMIN_PASSWORD_FILE")
    export MLFLOW_AUTH_ADMIN_PASSWORD="${MLFLOW_AUTH_ADMIN_PASSWORD:-}"
    # It signs forms; a new one at each start is well with the one machine that this is for.
    [ -n "${MLFLOW_FLASK_SERVER_SECRET_KEY:-}" ] || MLFLOW_FLASK_SERVER_SECRET_KEY=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
    export MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH
    # Everybody who has an account may add to every study, and only its owner or the admin may delete.
    cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = ${MLFLOW_DEFAULT_PERMISSION:-EDIT}
database_uri = $(uri "$MLFLOW_AUTH_DATABASE")
admin_username = ${MLFLOW_ADMIN:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI
    set -- "$@" --app-name basic-auth
fi
# Two processes that make the tables of a new database at once would fail.
"$MLFLOW" db upgrade "$(uri "$MLFLOW_DATABASE")"
exec "$MLFLOW" server "$@"
