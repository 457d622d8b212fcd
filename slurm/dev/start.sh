#!/bin/bash
# Start a throw-away Slurm on this machine: munged, slurmctld and a few slurmd, as the calling user.
#
#   slurm/dev/start.sh [--folder DIR] [--nodes N] [--port P] [--accounting]
#
# Everything lies below DIR (default: build/slurm). Ports P and P+1 … P+N (default: 16817 …). With --accounting also
# slurmdbd and its own MariaDB (ports P+N+1 and P+N+2, on 127.0.0.1), so that sacct answers. Then:
#   export SLURM_CONF=DIR/etc/slurm.conf
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
FOLDER=$(dirname "$(dirname "$HERE")")/build/slurm
NODES=4
PORT=16817
ACCOUNTING=0
while [ $# -gt 0 ]; do
  case $1 in
    --folder) FOLDER=$2; shift 2 ;;
    --nodes) NODES=$2; shift 2 ;;
    --port) PORT=$2; shift 2 ;;
    --accounting) ACCOUNTING=1; shift ;;
    *) echo "start.sh: unknown argument $1; see the top of $0" >&2; exit 2 ;;
  esac
done

fail() { echo "start.sh: $*" >&2; exit 1; }

# wait_for SECONDS COMMAND…: until the command succeeds.
wait_for() {
  local tries=$(( $1 * 10 )); shift
  for _ in $(seq "$tries"); do "$@" > /dev/null 2>&1 && return 0; sleep 0.1; done
  return 1
}

# needs PACKAGES PROGRAM…: all of the programs are there.
needs() {
  local packages=$1 program; shift
  for program; do
    PATH=$PATH:/usr/sbin command -v "$program" > /dev/null ||
      fail "$program was not found. On Debian or Ubuntu: apt-get install $packages"
  done
}
needs "munge slurmctld slurmd slurm-client" munged slurmctld slurmd srun
[ "$ACCOUNTING" = 0 ] || needs "slurmdbd mariadb-server" slurmdbd mariadbd mariadb-install-db
PATH=$PATH:/usr/sbin
mkdir -p "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd)
export SLURM_CONF=$FOLDER/etc/slurm.conf
if [ -e "$FOLDER/pid/slurmctld.pid" ] && timeout 10 scontrol ping 2> /dev/null | grep -q 'is UP'; then
  echo "already up: export SLURM_CONF=$SLURM_CONF"
  exit 0
fi

# A half-started cluster is taken down again.
trap 'status=$?; [ $status -eq 0 ] || "$HERE/stop.sh" --folder "$FOLDER"; exit $status' EXIT

umask 022
mkdir -p "$FOLDER"/{etc,log,pid,state,spool,munge}
chmod 0711 "$FOLDER/munge"
KEY=$FOLDER/munge/munge.key
[ -s "$KEY" ] || (umask 077; head -c 128 /dev/urandom > "$KEY")

fill() {
  sed -e "s|@FOLDER@|$FOLDER|g" -e "s|@HOST@|$(hostname -s)|g" -e "s|@USER@|$(id -un)|g" -e "s|@NODES@|$NODES|g" \
    -e "s|@PORT@|$PORT|g" -e "s|@FIRST_NODE_PORT@|$((PORT + 1))|g" -e "s|@LAST_NODE_PORT@|$((PORT + NODES))|g" \
    -e "s|@DBD_PORT@|$((PORT + NODES + 1))|g" -e "s|@SQL_PORT@|$((PORT + NODES + 2))|g" "$1"
}
fill "$HERE/slurm.conf.in" > "$FOLDER/etc/slurm.conf"
fill "$HERE/gres.conf.in" > "$FOLDER/etc/gres.conf"

# --force: the folder's parents may be writable by others (/tmp); the key itself is 0600.
munged --force --key-file="$KEY" --socket="$FOLDER/munge/munge.socket" --pid-file="$FOLDER/munge/munged.pid" \
  --seed-file="$FOLDER/munge/munged.seed" --log-file="$FOLDER/munge/munged.log" --num-threads=4 2> "$FOLDER/log/munged.err" ||
  fail "munged does not start; see $FOLDER/munge/munged.log"

# MariaDB refuses to run as root; below $FOLDER only its own folder is the user mysql's then.
start_accounting() {
  local db=$FOLDER/db as=() wait_sql
  mkdir -p "$db"
  if [ "$(id -u)" = 0 ]; then as=(--user=mysql); chown mysql: "$db"; fi
  [ -d "$db/data/mysql" ] || mariadb-install-db --no-defaults "${as[@]}" --datadir="$db/data" --skip-test-db \
    --auth-root-authentication-method=socket > "$FOLDER/log/mariadb-install.log" 2>&1 ||
    fail "MariaDB cannot be set up; see $FOLDER/log/mariadb-install.log (the user mysql must be able to reach $db)"
  setsid mariadbd --no-defaults "${as[@]}" --datadir="$db/data" --socket="$db/my.sock" --pid-file="$db/my.pid" \
    --bind-address=127.0.0.1 --port=$((PORT + NODES + 2)) --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 > "$FOLDER/log/mariadbd.log" 2>&1 < /dev/null &
  wait_sql=(mariadb-admin --no-defaults -S "$db/my.sock" ping)
  wait_for 30 "${wait_sql[@]}" || fail "MariaDB does not answer; see $FOLDER/log/mariadbd.log"
  mariadb --no-defaults -S "$db/my.sock" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
    GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
  (umask 077; fill "$HERE/slurmdbd.conf.in" > "$FOLDER/etc/slurmdbd.conf")
  cat >> "$FOLDER/etc/slurm.conf" << EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + NODES + 1))
AccountingStoragePass=$FOLDER/munge/munge.socket
AccountingStorageTRES=gres/gpu
EOF
  slurmdbd # finds slurmdbd.conf beside $SLURM_CONF
  wait_for 30 timeout 5 sacctmgr --noheader show cluster || fail "slurmdbd does not answer; see $FOLDER/log/slurmdbd.log"
}
[ "$ACCOUNTING" = 0 ] || start_accounting

slurmctld -L "$FOLDER/log/slurmctld.log"
wait_for 20 bash -c "scontrol ping | grep -q 'is UP'" || fail "slurmctld does not answer; see $FOLDER/log/slurmctld.log"

for number in $(seq "$NODES"); do
  mkdir -p "$FOLDER/spool/node$number"
  slurmd -N "node$number" -L "$FOLDER/log/slurmd.node$number.log"
done
all_idle() { [ "$(sinfo --noheader --partition=low --states=idle --format=%D)" = "$NODES" ]; }
wait_for 30 all_idle || { sinfo --list-reasons >&2; fail "not all nodes are up; see $FOLDER/log"; }

echo "up: $NODES nodes with 4 CPUs and 4 (fake) GPUs each; partitions low and high"
echo "export SLURM_CONF=$SLURM_CONF"
