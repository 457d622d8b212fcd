# What serve.sh, backup.sh, restore.sh and retention.sh have in common: they read it; it does nothing by itself.
#
# PostgreSQL is reached by libpq's own variables (PGHOST, PGPORT, PGUSER, PGPASSFILE, …); a password never is in a
# command line. What else can be set:
: "${MLFLOW_DATABASE:=mlflow}"                # runs and the model registry
: "${MLFLOW_AUTH_DATABASE:=mlflow_auth}"      # users and permissions
: "${MLFLOW_ARTIFACTS_DESTINATION:=/srv/mlflow/artifacts}"   # a folder, or s3://bucket/path
: "${MLFLOW:=mlflow}"                         # the program

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

# A password from a file (a secret of the service manager or container) rather than from the environment.
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    export PGPASSWORD
fi

uri() { echo "postgresql+psycopg2:///$1"; }
