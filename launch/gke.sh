#!/usr/bin/env bash
# Runs training on TPU slices of a GKE cluster, as a JobSet or with XPK.
#
#   launch/gke.sh [--env=FILE] [--go | --dry-run] [ACTION]
#
# Prints the commands; executes them with --go or GO=1. Without an action, a dry
# run prints the commands of all actions. Actions:
#
#   yaml         prints the JobSet, with or without --go
#   credentials  gives kubectl access to the cluster
#   create       creates the JobSet
#   status       shows the state of the JobSet and its pods
#   tail         follows the log of the first machine
#   resume       deletes and recreates a JobSet that has failed permanently
#   delete       saves and ends the run and deletes its JobSet
#   xpk-create   replaces create in clusters made by XPK
#   xpk-delete   replaces delete in clusters made by XPK
#
# All pods are restarted if one ends with 75 or 76, or if Kubernetes removes its
# node. With any other exit code, the JobSet fails permanently.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=jobset.sh
source "$(dirname "${BASH_SOURCE[0]}")/jobset.sh"
start "$@"
need PROJECT ZONE LOCATION CLUSTER NAMESPACE IMAGE IMAGE_CODE_DIR \
  GKE_ACCELERATOR GKE_TOPOLOGY XPK_TPU_TYPE
numbers NUM_SLICES PODS_PER_SLICE CHIPS_PER_POD
one_of CAPACITY spot reserved on-demand
check_run
[[ $CAPACITY != reserved ]] || need RESERVATION
[[ $GKE_TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] \
  || fail "GKE_TOPOLOGY=$GKE_TOPOLOGY must be like 4x4 or 2x2x4"
((${GKE_TOPOLOGY//x/*} == PODS_PER_SLICE * CHIPS_PER_POD)) \
  || fail "GKE_TOPOLOGY=$GKE_TOPOLOGY has $((${GKE_TOPOLOGY//x/*})) chips, not \
PODS_PER_SLICE=$PODS_PER_SLICE times CHIPS_PER_POD=$CHIPS_PER_POD"

# Named explicitly, because kubectl's current context may be another cluster.
KUBECTL=(kubectl "--context=gke_${PROJECT}_${LOCATION}_$CLUSTER"
  "--namespace=$NAMESPACE")
XPK_WHERE=("--cluster=$CLUSTER" "--workload=$RUN_NAME" "--project=$PROJECT"
  "--zone=$ZONE")

do_yaml() { jobset; }

do_credentials() {
  run gcloud container clusters get-credentials "$CLUSTER" \
    "--project=$PROJECT" "--location=$LOCATION"
}

do_create() {
  if ((GO)); then
    jobset | "${KUBECTL[@]}" create --filename=-
  else
    printf '%s | %s\n' "$(quote "$0" "--env=$ENV_FILE" yaml)" \
      "$(quote "${KUBECTL[@]}" create --filename=-)"
  fi
}

do_status() {
  run "${KUBECTL[@]}" get jobset "$RUN_NAME"
  run "${KUBECTL[@]}" get pods --output=wide \
    "--selector=jobset.sigs.k8s.io/jobset-name=$RUN_NAME"
}

do_tail() {
  local labels=(
    "jobset.sigs.k8s.io/jobset-name=$RUN_NAME"
    jobset.sigs.k8s.io/job-index=0
    batch.kubernetes.io/job-completion-index=0
  )
  run "${KUBECTL[@]}" logs --follow --tail=100 \
    "--selector=$(IFS=,; echo "${labels[*]}")"
}

do_resume() {
  do_delete
  do_create
}

do_delete() {
  run "${KUBECTL[@]}" delete jobset "$RUN_NAME" --ignore-not-found
}

# XPK restarts on exit codes 42 and 127 to 255, that is, after every crash. This
# wrapper forwards SIGTERM. It returns 42 for 75 and 76, and 1 for the other
# codes that XPK would restart.
# shellcheck disable=SC2016
XPK_WRAPPER='term=; trap "term=1; kill -TERM \$child 2>/dev/null || :" TERM; '\
'"$@" & child=$!; '\
'while term=; code=0; wait $child || code=$?; [ -n "$term" ]; do :; done; '\
'case $code in 75|76) code=42;; 42|12[7-9]|1[3-9]?|2??) code=1;; esac; '\
'exit $code'

do_xpk_create() {
  local command
  command_with_env
  command="cd $(quote "$IMAGE_CODE_DIR") && exec $(
    quote bash -c "$XPK_WRAPPER" bigscale "${COMMAND[@]}"
  )"
  # XPK writes the command into one line of YAML.
  [[ $command != *$'\n'* ]] \
    || fail "XPK does not allow line breaks in WORKDIR, TRAIN_ARGS and so on"
  # In YAML, Kubernetes expands $(NAME) and replaces $$ by $.
  command=${command//\$/\$\$}
  run xpk workload create "${XPK_WHERE[@]}" "--tpu-type=$XPK_TPU_TYPE" \
    "--num-slices=$NUM_SLICES" "--docker-image=$IMAGE" \
    "--max-restarts=$MAX_RESTARTS" \
    "--termination-grace-period-seconds=$((GRACE_SECONDS + 10))" \
    "${XPK_ARGS[@]}" "--command=$command"
}

do_xpk_delete() { run xpk workload delete "${XPK_WHERE[@]}"; }

actions yaml credentials create status tail resume delete xpk-create xpk-delete
