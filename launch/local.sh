#!/usr/bin/env bash
# Runs training as several processes on this machine's CPUs.
#
#   launch/local.sh [--env=FILE] [--go | --dry-run] [run]
#
# Prints the command; executes it with --go or GO=1. Restarts the run if it ends
# with 75 or 76, at most MAX_RESTARTS times. On Ctrl-C and SIGTERM, the run
# saves a checkpoint and ends.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
start "$@"
numbers NUM_PROCESSES DEVICES_PER_PROCESS
PROCESSES=$NUM_PROCESSES
check_run
# XLA's thread pool needs twice as many threads as devices, or collectives can
# deadlock. The program sets the other variables that XLA needs on CPUs.
RUN_ENV=(JAX_PLATFORMS=cpu
  "PJRT_NPROC=$((DEVICES_PER_PROCESS > 8 ? 2 * DEVICES_PER_PROCESS : 16))"
  "${RUN_ENV[@]}")
COMMAND+=("--virtual_devices=$DEVICES_PER_PROCESS")
command_with_env

do_run() {
  local command=(bash "$HOSTS_DIR/restart.sh" "$MAX_RESTARTS" "$RESTART_DELAY"
    "${COMMAND[@]}")
  # exec, so that restart.sh receives the signals sent to this process.
  if ((GO)); then exec "${command[@]}"; else run "${command[@]}"; fi
}

((!GO)) || ACTION=${ACTION:-run}
actions run
