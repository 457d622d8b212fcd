#!/bin/sh
# What is not kept for ever: retention.sh [BACKUPS]. For a daily timer.
#
# Runs that somebody deleted in MLflow are removed for good, with their artifacts, after MLFLOW_KEEP_DELETED (30d);
# of the backups in the folder BACKUPS the newest MLFLOW_KEEP_BACKUPS (14) stay. Nothing else is ever removed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
set -a
# shellcheck source=/dev/null
. "$here/server.env"
set +a
# shellcheck source=settings.sh
. "$here/settings.sh"
store=$(uri "$MLFLOW_DATABASE")
"$MLFLOW" gc --backend-store-uri "$store" --tracking-uri "$store" \
    --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" --older-than "${MLFLOW_KEEP_DELETED:-30d}"
[ $# = 0 ] && exit 0
find "$1" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*T[0-9]*Z' | sort -r |
    tail -n "+$((${MLFLOW_KEEP_BACKUPS:-14} + 1))" | while read -r old; do
    rm -rf "$old"
    echo "removed $old"
done
