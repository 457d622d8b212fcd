#!/bin/bash
# Start a throw-away Slurm on this machine: munged, slurmctld and a few slurmd, as the calling user.
#
#   slurm/dev/start.sh [--folder DIR] [--nodes N] [--port P]
#
# Everything lies below DIR (default: build/slurm). Ports P and P+1 … P+N (default: 16817 …). Then:
#   export SLURM_CONF=DIR/etc/slurm.conf
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
FOLDER=$(dirname "$(dirname "$HERE")")/build/slurm
NODES=4
PORT=16817
while [ $# -gt 0 ]; do
  case $1 in
    --folder) FOLDER=$2; shift 2 ;;
    --nodes) NODES=$2; shift 2 ;;
    --port) PORT=$2; shift 2 ;;
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

for program in munged slurmctld slurmd srun; do
  PATH=$PATH:/usr/sbin command -v "$program" > /dev/null ||
    fail "$program was not found. On Debian or Ubuntu: apt-get install munge slurmctld slurmd slurm-client"
done
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
    -e "s|@PORT@|$PORT|g" -e "s|@FIRST_NODE_PORT@|$((PORT + 1))|g" -e "s|@LAST_NODE_PORT@|$((PORT + NODES))|g" "$1"
}
fill "$HERE/slurm.conf.in" > "$FOLDER/etc/slurm.conf"
fill "$HERE/gres.conf.in" > "$FOLDER/etc/gres.conf"

# --force: the folder's parents may be writable by others (/tmp); the key itself is 0600.
munged --force --key-file="$KEY" --socket="$FOLDER/munge/munge.socket" --pid-file="$FOLDER/munge/munged.pid" \
  --seed-file="$FOLDER/munge/munged.seed" --log-file="$FOLDER/munge/munged.log" --num-threads=4 2> "$FOLDER/log/munged.err" ||
  fail "munged does not start; see $FOLDER/munge/munged.log"

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
