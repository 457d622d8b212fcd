#!/bin/bash
# Stop the Slurm that start.sh started, by its pid files only.
#
#   slurm/dev/stop.sh [--folder DIR] [--keep]        --keep: leave the folder with the logs
set -u

HERE=$(cd "$(dirname "$0")" && pwd)
FOLDER=$(dirname "$(dirname "$HERE")")/build/slurm
KEEP=0
while [ $# -gt 0 ]; do
  case $1 in
    --folder) FOLDER=$2; shift 2 ;;
    --keep) KEEP=1; shift ;;
    *) echo "stop.sh: unknown argument $1; see the top of $0" >&2; exit 2 ;;
  esac
done
[ -e "$FOLDER/etc/slurm.conf" ] || exit 0
export SLURM_CONF=$FOLDER/etc/slurm.conf

# Jobs first, so that no slurmstepd is left behind.
if [ -e "$FOLDER/pid/slurmctld.pid" ]; then
  timeout 10 scancel --full --user="$(id -un)" 2> /dev/null
  for _ in $(seq 100); do
    [ -z "$(timeout 5 squeue --noheader 2> /dev/null)" ] && break
    sleep 0.1
  done
fi

# stop NAME PIDFILE…: TERM to all, KILL after 10 s. A pid of a process with another name is stale and left alone.
stop() {
  local name=$1 file pid pids=() left
  shift
  for file; do
    pid=$(cat "$file" 2> /dev/null) || continue
    case "$(cat "/proc/$pid/comm" 2> /dev/null)" in "$name"*) kill "$pid" && pids+=("$pid") ;; esac
  done
  for _ in $(seq 100); do
    left=0
    for pid in "${pids[@]}"; do kill -0 "$pid" 2> /dev/null && left=1; done
    [ $left = 0 ] && return
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2> /dev/null
}
stop slurmd "$FOLDER"/pid/slurmd.*.pid
stop slurmctld "$FOLDER/pid/slurmctld.pid"
stop slurmdbd "$FOLDER/pid/slurmdbd.pid"
stop mariadbd "$FOLDER/db/my.pid"
stop munged "$FOLDER/munge/munged.pid"
if [ $KEEP = 0 ]; then
  rm -rf "$FOLDER"/{etc,log,pid,state,spool,munge,db}
  rmdir "$FOLDER" 2> /dev/null # whatever else is in it stays
fi
exit 0
