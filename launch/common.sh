# shellcheck shell=bash
# Functions shared by the launchers: options, env file, checks, dry runs.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "launch: bash $BASH_VERSION is too old; use 4.4 or newer" >&2
  exit 2
fi

LAUNCH_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034
HOSTS_DIR=$LAUNCH_DIR/hosts

fail() {
  printf 'launch: %s\n' "$1" >&2
  exit 2
}

# Prints a message; in a dry run, as a shell comment.
note() {
  if ((GO)); then printf 'launch: %s\n' "$1" >&2; else printf '# %s\n' "$1"; fi
}

# Prints the arguments on one line, quoted for any POSIX shell.
quote() {
  local word words=()
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    words+=("$word")
  done
  printf '%s\n' "${words[*]}"
}

# Executes a command with --go, and prints it otherwise.
run() {
  if ((GO)); then "$@"; else quote "$@"; fi
}

usage() {
  # The help is the header comment of the script.
  sed -n '2,/^$/{s/^# \{0,1\}//;/^$/d;p}' "$0"
}

# Parses [--env=FILE] [--go | --dry-run] [ACTION] and reads the env file.
# Sets GO (0 or 1) and ACTION (empty if not given).
start() {
  local env_file=$LAUNCH_DIR/example.env go=${GO:-0} word
  ACTION=
  for word; do
    case $word in
      --env=*) env_file=${word#--env=} ;;
      --go) go=1 ;;
      --dry-run) go=0 ;;
      -h | --help) usage && exit 0 ;;
      -*) fail "unknown option $word; see $0 --help" ;;
      *) [[ -z $ACTION ]] || fail "two actions: $ACTION and $word; give one"
         ACTION=$word ;;
    esac
  done
  [[ $go == [01] ]] || fail "GO=$go must be 0 or 1"
  [[ -f $env_file ]] || fail "no file $env_file; copy launch/example.env and \
give --env=FILE"
  # Defaults of optional values.
  TRAIN_ARGS=() RUN_ENV=() QR_ARGS=() SSH_ARGS=() XPK_ARGS=() SBATCH_ARGS=()
  SERVICE_ACCOUNT='' VOLUME_CLAIM='' VOLUME_PATH='' PARTITION='' ACCOUNT='' QUEUE=''
  # shellcheck source=example.env
  source "$env_file"
  GO=$go ENV_FILE=$env_file
}

# need NAME...: checks that values are set and are not placeholders.
need() {
  local name value
  local word='project|zone|location|cluster|run|bucket|registry|organization'
  for name; do
    value=${!name-}
    [[ -n $value ]] || fail "$name is not set; set it in $ENV_FILE"
    if [[ $value =~ (^|/)my-($word)($|[/:]) ]]; then
      ((!GO)) || fail "$name=$value is a placeholder; set it in $ENV_FILE"
    fi
  done
}

# numbers NAME...: checks that values are whole numbers, and that numbers of
# machines and processes are at least 1.
numbers() {
  local name
  for name; do
    [[ ${!name-} =~ ^(0|[1-9][0-9]{0,8})$ ]] \
      || fail "$name=${!name-} must be a whole number; set it in $ENV_FILE"
    case $name in
      NUM_* | NODES | *_PER_*)
        [[ $name == GPUS_PER_NODE || ${!name} != 0 ]] \
          || fail "$name=0 must be at least 1; set it in $ENV_FILE" ;;
    esac
  done
}

# one_of NAME VALUE...: checks that a value is one of those listed.
one_of() {
  local name=$1 value
  shift
  for value; do [[ ${!name-} != "$value" ]] || return 0; done
  fail "$name=${!name-} must be one of: $*; set it in $ENV_FILE"
}

# Checks the values that all launchers use, and sets COMMAND to the program with
# its arguments. Each machine runs PROCESSES processes under a supervisor. Its
# exit code says whether to restart, also if a process was killed by a signal.
PROCESSES=1
check_run() {
  local pair
  need RUN_NAME PROGRAM CONFIG WORKDIR
  [[ $WORKDIR != *://* || $WORKDIR == gs://?*/?* ]] || fail "WORKDIR=$WORKDIR \
must be gs://BUCKET/NAME, or a folder that all machines share"
  numbers MAX_RESTARTS RESTART_DELAY GRACE_SECONDS
  # Names of pods, nodes and jobs add a suffix and are limited to 63 characters.
  [[ $RUN_NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] \
    || fail "RUN_NAME=$RUN_NAME must be at most 40 lowercase letters, digits \
and hyphens; it must start with a letter and end with a letter or digit"
  for pair in "${RUN_ENV[@]}"; do
    [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] \
      || fail "RUN_ENV: $pair must be NAME=VALUE"
  done
  COMMAND=("$PROGRAM" train "--config=$CONFIG" "--workdir=$WORKDIR"
    "--local_processes=$PROCESSES" "${TRAIN_ARGS[@]}")
}

# Adds RUN_ENV to COMMAND with `env`, which replaces itself by the program, so
# that signals reach the program.
command_with_env() {
  if ((${#RUN_ENV[@]})); then COMMAND=(env "${RUN_ENV[@]}" "${COMMAND[@]}"); fi
}

# actions NAME...: calls the function of ACTION. Without ACTION, a dry run calls
# all of them.
actions() {
  local name
  if [[ -z $ACTION ]]; then
    ((!GO)) || fail "--go needs an action: $*"
    for name; do
      note "--- $name"
      "do_${name//-/_}"
    done
    return
  fi
  for name; do
    [[ $ACTION != "$name" ]] || { "do_${name//-/_}"; return; }
  done
  fail "unknown action $ACTION; choose from: $*"
}
