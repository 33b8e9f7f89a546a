#!/usr/bin/env bash
# Runs a command and restarts it if it ends with 75 (preempted, saved) or 76
# (killed, or ended by the watchdog), at most MAX times. Returns the last exit
# code of the command.
#
#   restart.sh [--state=DIR] MAX DELAY_SECONDS COMMAND [ARGUMENT...]
#
# SIGTERM, SIGINT and SIGHUP are forwarded as SIGTERM, and the command is not
# restarted after them. DIR receives the files `pid` and, at the end, `code`.

set -euo pipefail

state=
if [[ ${1-} == --state=* ]]; then
  state=${1#--state=}
  shift
fi
if (($# < 3)); then
  echo "usage: restart.sh [--state=DIR] MAX DELAY_SECONDS COMMAND..." >&2
  exit 2
fi
max=$1 delay=$2
shift 2

child='' stopping='' interrupted=''
forward() {
  stopping=1 interrupted=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || :
}
trap forward TERM INT HUP

finish() {
  [[ -z $state ]] || echo "$1" >"$state/code"
  exit "$1"
}

# Sets `code` to the exit code of a process. A signal interrupts `wait`, which
# then returns another code and must be repeated.
await() {
  while :; do
    interrupted='' code=0
    wait "$1" || code=$?
    [[ -n $interrupted ]] || return 0
  done
}

if [[ -n $state ]]; then
  rm -f "$state/code"
  echo $$ >"$state/pid"
fi

for ((restarts = 0; ; restarts++)); do
  "$@" &
  child=$!
  [[ -z $stopping ]] || kill -TERM "$child" 2>/dev/null || :
  await "$child"
  child=
  case $code in
    75 | 76) ;;
    *) finish "$code" ;;
  esac
  [[ -z $stopping ]] || finish "$code"
  if ((restarts >= max)); then
    echo "restart.sh: code $code after $max restarts; giving up" >&2
    finish "$code"
  fi
  again="restart $((restarts + 1)) of $max in $delay s"
  echo "restart.sh: code $code; $again" >&2
  # One-second steps, because a signal just before `wait` does not interrupt it.
  for ((left = delay; left > 0; left--)); do
    [[ -z $stopping ]] || break
    sleep 1 &
    wait $! || :
  done
  [[ -z $stopping ]] || finish "$code"
done
