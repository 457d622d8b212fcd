#!/bin/sh
# Bring a backup back: restore.sh FOLDER/<time> [--replace]. Stop the server before.
#
# Without --replace the databases must be empty or missing, so that nothing is overwritten by mistake.
set -eu
# shellcheck source=settings.sh
. "$(dirname "$0")/settings.sh"
[ $# -ge 1 ] || fail "expected a backup, as in: restore.sh /srv/backup/mlflow/20260101T000000Z"
backup=$1
[ -f "$backup/SHA256SUMS" ] || fail "$backup is no backup: it has no SHA256SUMS"
(cd "$backup" && sha256sum --check --quiet SHA256SUMS) || fail "$backup is damaged"
for dump in "$backup"/*.dump; do
    database=$(basename "$dump" .dump)
    psql -XAtqc "SELECT 1" -d "$database" > /dev/null 2>&1 || createdb "$database"
    tables=$(psql -XAtqc "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'" -d "$database")
    [ "$tables" = 0 ] || [ "${2:-}" = --replace ] || fail "$database has $tables tables; --replace overwrites them"
    [ "$tables" = 0 ] || psql -Xqc "DROP SCHEMA public CASCADE" -c "CREATE SCHEMA public" -d "$database" 2> /dev/null
    pg_restore --exit-on-error --no-owner --single-transaction --dbname "$database" "$dump"
done
if [ -f "$backup/artifacts.tar" ]; then
    mkdir -p "$MLFLOW_ARTIFACTS_DESTINATION"
    tar -C "$MLFLOW_ARTIFACTS_DESTINATION" -xf "$backup/artifacts.tar"
fi
echo "restored from $backup"
