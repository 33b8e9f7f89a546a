#!/usr/bin/env bash
# Runs training on one Cloud TPU machine, in the background.
#
#   host.sh start  NAME CODE_DIR MAX DELAY_SECONDS COMMAND [ARGUMENT...]
#   host.sh resume NAME CODE_DIR MAX DELAY_SECONDS COMMAND [ARGUMENT...]
#   host.sh status NAME
#   host.sh log    NAME
#   host.sh stop   NAME GRACE_SECONDS
#
# `resume` does nothing if the run is running or has ended with a code other
# than 75 and 76. The run's log, pid and exit code are in
# ~/bigscale-launch/NAME.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
action=$1 name=$2
state=$HOME/bigscale-launch/$name
mkdir -p "$state"

# The run holds this lock until it ends.
running() { ! flock --nonblock "$state/lock" true; }

start() {
  local folder=$1 max=$2 delay=$3
  shift 3
  exec 9>"$state/lock"
  if ! flock --nonblock 9; then
    echo "$(hostname): $name is already running"
    # A second `start` is a mistake, but `resume` may be called at any time.
    [[ $action == resume ]] || exit 2
    return
  fi
  if [[ $action == resume && -f $state/code ]]; then
    code=$(<"$state/code")
    if [[ $code != 75 && $code != 76 ]]; then
      echo "$(hostname): $name ended with $code; use run to start it again"
      return
    fi
  fi
  cd "$folder"
  # Detached from the ssh session. Descriptor 9 keeps the lock.
  setsid bash "$here/restart.sh" "--state=$state" "$max" "$delay" "$@" \
    >>"$state/log" 2>&1 </dev/null &
  echo "$(hostname): $name started; log in $state/log"
}

stop() {
  if ! running; then
    echo "$(hostname): $name is not running"
    return
  fi
  kill -TERM "$(<"$state/pid")"
  if flock --wait "$1" "$state/lock" true; then
    echo "$(hostname): $name ended with $(<"$state/code")"
  else
    echo "$(hostname): $name is still running $1 s after SIGTERM" >&2
    exit 1
  fi
}

status() {
  if running; then
    echo "$(hostname): $name is running: $(tail -n 1 "$state/log")"
  else
    echo "$(hostname): $name is not running; last exit code:" \
      "$(cat "$state/code" 2>/dev/null || echo none)"
  fi
}

shift 2
case $action in
  start | resume) start "$@" ;;
  stop) stop "$1" ;;
  status) status ;;
  log) exec tail -n 100 -F "$state/log" ;;
  *)
    echo "host.sh: unknown action $action" >&2
    exit 2
    ;;
esac
