#!/bin/sh
# What is not kept for ever: retention.sh [BACKUPS]. For a daily timer, beside the running server.
#
# Runs that were deleted in MLflow are removed for good, with their artifacts, after MLFLOW_KEEP_DELETED (30d);
# of the backups in the folder BACKUPS the newest MLFLOW_KEEP_BACKUPS (14) stay. Nothing else is ever removed.
set -eu
# shellcheck source=settings.sh
. "$(dirname "$0")/settings.sh"
# Artifacts are removed by way of the server, which must run.
export MLFLOW_TRACKING_URI="${MLFLOW_SERVER:-http://127.0.0.1:${MLFLOW_PORT:-5000}}"
if [ -n "${MLFLOW_AUTH_ADMIN_PASSWORD_FILE:-}" ]; then
    MLFLOW_TRACKING_USERNAME=${MLFLOW_ADMIN:-admin}
    MLFLOW_TRACKING_PASSWORD=$(cat "$MLFLOW_AUTH_ADMIN_PASSWORD_FILE")
    export MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD
fi
"$MLFLOW" gc --backend-store-uri "$(uri "$MLFLOW_DATABASE")" \
    --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" --older-than "${MLFLOW_KEEP_DELETED:-30d}"
[ $# = 0 ] && exit 0
find "$1" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*T[0-9]*Z' | sort -r |
    tail -n "+$((${MLFLOW_KEEP_BACKUPS:-14} + 1))" | while read -r old; do
    rm -rf "$old"
    echo "removed $old"
done
