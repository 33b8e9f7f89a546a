#!/usr/bin/env bash
# The batch script of launch/slurm.sh. It runs all tasks of a run and requeues
# the job if they end with 75 or 76.
#
#   slurm_job.sh MAX_RESTARTS GRACE_SECONDS COMMAND [ARGUMENT...]
#
# SLURM copies only this file to the node, so it cannot source other files.

set -euo pipefail

max=$1 grace=$2
shift 2

# Before the time limit, SLURM sends SIGTERM only to the tasks. This shell
# receives it if the job is cancelled or preempted; SLURM then decides whether
# to requeue the job.
cancelled=
trap 'cancelled=1' TERM

# A task that ends early must not kill the others while they save.
code=0
srun --kill-on-bad-exit=0 --wait="$grace" "$@" || code=$?

case $code in
  75 | 76)
    if [[ -n $cancelled ]]; then
      echo "slurm_job.sh: code $code after SIGTERM to the job; not requeued" >&2
      exit "$code"
    fi
    restarts=${SLURM_RESTART_COUNT:-0}
    if ((restarts >= max)); then
      echo "slurm_job.sh: code $code after $max restarts; not requeued" >&2
    else
      echo "slurm_job.sh: code $code; restart $((restarts + 1)) of $max" >&2
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
