#!/usr/bin/env bash
# Runs training on Cloud TPU VMs, created as a queued resource.
#
#   launch/cloud_tpu.sh [--env=FILE] [--go | --dry-run] [ACTION]
#
# Prints the commands; executes them with --go or GO=1. Without an action, a dry
# run prints the commands of all actions. Actions:
#
#   create  requests the slices (NUM_SLICES, CAPACITY)
#   wait    waits until the slices are active
#   setup   prepares each machine (SETUP_COMMAND)
#   run     starts training on each machine, in the background
#   tail    follows the log of the first machine
#   status  shows the state of the slices, and of the run on each machine
#   stop    saves and ends the run
#   resume  after a preemption, recreates lost slices and resumes the run;
#           does not touch running machines, or runs that ended with
#           another code than 75 or 76
#   delete  deletes the slices
#
# Each machine restarts its process if it ends with 75 or 76.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
start "$@"
need PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION HOST_CODE_DIR
numbers NUM_SLICES POLL_SECONDS
[[ -z ${SETUP_COMMAND-} ]] || need SETUP_COMMAND
one_of CAPACITY spot reserved on-demand
check_run
command_with_env

WHERE=("--project=$PROJECT" "--zone=$ZONE")
QUEUED=(gcloud compute tpus queued-resources)
VM=(gcloud compute tpus tpu-vm)

# gcloud appends an index to the node prefix.
NODES=("$RUN_NAME")
if ((NUM_SLICES > 1)); then
  NODES=()
  for ((i = 0; i < NUM_SLICES; i++)); do NODES+=("$RUN_NAME-$i"); done
fi

# on_all COMMAND: runs a command on all machines of all slices in parallel.
on_all() {
  local node pid pids=() code=0
  for node in "${NODES[@]}"; do
    if ((GO)); then
      on "$node" all "$1" &
      pids+=($!)
    else
      on "$node" all "$1"
    fi
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

# on NODE WORKER COMMAND: runs a command on a machine.
on() {
  run "${VM[@]}" ssh "$1" "${WHERE[@]}" "--worker=$2" "${SSH_ARGS[@]}" \
    "--command=$3"
}

# host ARGUMENT...: prints the remote command that runs hosts/host.sh.
host() { quote bash bigscale-launch/host.sh "$@"; }

host_start() {
  host "$1" "$RUN_NAME" "$HOST_CODE_DIR" "$MAX_RESTARTS" "$RESTART_DELAY" \
    "${COMMAND[@]}"
}

# Sets `state` to the state of the queued resource, to GONE if it does not
# exist, or to $1 in a dry run. It uses `list`, which distinguishes a missing
# resource from a gcloud failure, and retries after temporary failures.
queued_state() {
  local list=("${QUEUED[@]}" list "${WHERE[@]}"
    '--format=value(name.basename(),state.state)')
  local found name value failures=0
  if ((!GO)); then
    run "${list[@]}"
    state=$1
    return
  fi
  until found=$("${list[@]}"); do
    if ((++failures == 5)); then
      note "gcloud failed $failures times; see its messages above"
      exit 1
    fi
    sleep "$POLL_SECONDS"
  done
  state=GONE
  while read -r name value; do
    if [[ $name == "$RUN_NAME" ]]; then state=${value:-UNKNOWN}; fi
  done <<<"$found"
}

do_create() {
  local create=("${QUEUED[@]}" create "$RUN_NAME" "${WHERE[@]}"
    "--accelerator-type=$ACCELERATOR_TYPE"
    "--runtime-version=$RUNTIME_VERSION")
  if ((NUM_SLICES > 1)); then
    create+=("--node-count=$NUM_SLICES" "--node-prefix=$RUN_NAME")
  else
    create+=("--node-id=$RUN_NAME")
  fi
  case $CAPACITY in
    spot) create+=(--spot) ;;
    reserved) create+=(--reserved) ;;
  esac
  run "${create[@]}" "${QR_ARGS[@]}" --async
}

do_wait() {
  local state
  note "waiting for state ACTIVE, polling every $POLL_SECONDS s"
  while :; do
    queued_state ACTIVE
    case $state in
      ACTIVE) return ;;
      SUSPEND* | FAILED | DELETING | GONE)
        note "$RUN_NAME is $state; try resume, or delete"
        exit 1
        ;;
    esac
    note "$RUN_NAME is $state"
    sleep "$POLL_SECONDS"
  done
}

do_setup() {
  local node
  on_all 'mkdir -p bigscale-launch'
  for node in "${NODES[@]}"; do
    run "${VM[@]}" scp "$HOSTS_DIR/host.sh" "$HOSTS_DIR/restart.sh" \
      "$node:bigscale-launch/" "${WHERE[@]}" --worker=all
  done
  if [[ -n ${SETUP_COMMAND-} ]]; then
    # bash -e stops at the first failing command, whatever the login shell is.
    on_all "$(quote bash -ec "$SETUP_COMMAND")"
  fi
}

do_run() { on_all "$(host_start start)"; }

do_tail() { on "${NODES[0]}" 0 "$(host log "$RUN_NAME")"; }

do_status() {
  local state
  queued_state ACTIVE
  note "$RUN_NAME is $state"
  if [[ $state == ACTIVE ]]; then on_all "$(host status "$RUN_NAME")"; fi
}

do_stop() { on_all "$(host stop "$RUN_NAME" "$GRACE_SECONDS")"; }

do_resume() {
  local state
  queued_state SUSPENDED
  while [[ $state == SUSPENDING || $state == DELETING ]]; do
    note "$RUN_NAME is $state"
    sleep "$POLL_SECONDS"
    queued_state SUSPENDED
  done
  note "$RUN_NAME is $state"
  case $state in
    SUSPENDED | FAILED)
      do_delete
      do_create
      ;;
    GONE) do_create ;;
  esac
  do_wait
  # A recreated slice has new machines.
  do_setup
  on_all "$(host_start resume)"
}

do_delete() {
  run "${QUEUED[@]}" delete "$RUN_NAME" "${WHERE[@]}" --force --quiet
}

actions create wait setup run tail status stop resume delete
