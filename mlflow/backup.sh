#!/bin/sh
# A backup of the team's server: backup.sh FOLDER makes FOLDER/<time>/ with both databases and the artifacts.
#
# The server may go on meanwhile. Databases come first, so every artifact that they know of is in the backup as well.
set -eu
# shellcheck source=settings.sh
. "$(dirname "$0")/settings.sh"
[ $# = 1 ] || fail "expected a folder, as in: backup.sh /srv/backup/mlflow"
umask 077
mkdir -p "$1"
final="$1/$(date -u +%Y%m%dT%H%M%SZ)"
[ ! -e "$final" ] || fail "$final is there already; wait a second"
part=$(mktemp -d "$1/.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
for database in "$MLFLOW_DATABASE" "$MLFLOW_AUTH_DATABASE"; do
    if psql -XAtqc "SELECT 1" -d "$database" > /dev/null 2>&1; then
        pg_dump --format=custom --no-owner --file "$part/$database.dump" "$database"
    elif [ "$database" = "$MLFLOW_DATABASE" ]; then
        fail "no database $database on ${PGHOST:-the local socket}"
    fi
done
case $MLFLOW_ARTIFACTS_DESTINATION in
    *://*) echo "Artifacts are in $MLFLOW_ARTIFACTS_DESTINATION: turn on versioning there; this backup has the databases." >&2 ;;
    *) tar -C "$MLFLOW_ARTIFACTS_DESTINATION" -cf "$part/artifacts.tar" . ;;
esac
(cd "$part" && sha256sum ./*.dump ./*.tar 2> /dev/null > SHA256SUMS || [ -s SHA256SUMS ])
sync
mv "$part" "$final"
trap - EXIT
echo "$final"
