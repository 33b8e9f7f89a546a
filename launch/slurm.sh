#!/usr/bin/env bash
# Runs training as a SLURM batch job on GPUs or CPUs.
#
#   launch/slurm.sh [--env=FILE] [--go | --dry-run] [ACTION]
#
# Prints the commands; executes them with --go or GO=1. Without an action, a dry
# run prints the commands of all actions. Actions:
#
#   submit  queues the job
#   status  shows the state of the job
#   tail    follows its log
#   delete  cancels the job; the run has SLURM's KillWait seconds to save
#
# The job requeues itself if the run ends with 75 or 76. SLURM sends SIGTERM
# GRACE_SECONDS before the time limit, so a run can continue over many limits.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
start "$@"
need TIME_LIMIT LOG_DIR
numbers NODES TASKS_PER_NODE CPUS_PER_TASK GPUS_PER_NODE
check_run
command_with_env

do_submit() {
  local submit=(sbatch "--job-name=$RUN_NAME" "--nodes=$NODES"
    "--ntasks-per-node=$TASKS_PER_NODE" "--cpus-per-task=$CPUS_PER_TASK"
    "--time=$TIME_LIMIT" "--signal=TERM@$GRACE_SECONDS" --requeue
    "--output=$LOG_DIR/%x.log" --open-mode=append)
  if ((GPUS_PER_NODE)); then
    # JAX assigns the GPU with the task's local index to each task.
    ((TASKS_PER_NODE == GPUS_PER_NODE)) || fail "TASKS_PER_NODE=\
$TASKS_PER_NODE must equal GPUS_PER_NODE=$GPUS_PER_NODE: one task per GPU"
    submit+=("--gpus-per-node=$GPUS_PER_NODE")
  fi
  [[ -z $PARTITION ]] || submit+=("--partition=$PARTITION")
  [[ -z $ACCOUNT ]] || submit+=("--account=$ACCOUNT")
  run mkdir -p "$LOG_DIR"
  run "${submit[@]}" "${SBATCH_ARGS[@]}" "$HOSTS_DIR/slurm_job.sh" \
    "$MAX_RESTARTS" "$GRACE_SECONDS" "${COMMAND[@]}"
}

# Other users may have jobs of the same name.
MINE=("--name=$RUN_NAME" "--user=$(id -un)")

do_status() { run squeue "${MINE[@]}"; }

do_tail() { run tail -n 100 -F "$LOG_DIR/$RUN_NAME.log"; }

do_delete() { run scancel "${MINE[@]}"; }

actions submit status tail delete
