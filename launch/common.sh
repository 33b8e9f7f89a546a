# shellcheck shell=bash
# What the launchers share: options, the env file, checks, quoting, dry runs.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "launch: bash $BASH_VERSION is too old; 4.4 or newer is needed" >&2
  exit 2
fi

LAUNCH_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034
HOSTS_DIR=$LAUNCH_DIR/hosts

fail() {
  printf 'launch: %s\n' "$1" >&2
  exit 2
}

# A remark: a comment among the commands of a dry run.
note() {
  if ((GO)); then printf 'launch: %s\n' "$1" >&2; else printf '# %s\n' "$1"; fi
}

# The arguments as words of any POSIX shell, on one line.
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

# Does it with --go, shows it otherwise.
run() {
  if ((GO)); then "$@"; else quote "$@"; fi
}

usage() {
  # The script's own header is its help.
  sed -n '2,/^$/{s/^# \{0,1\}//;/^$/d;p}' "$0"
}

# Reads [--env=FILE] [--go | --dry-run] [ACTION] and the env file.
# Sets GO (0 or 1) and ACTION, which is empty where none was given.
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
  # Optional lists, which a file need not set.
  TRAIN_ARGS=() RUN_ENV=() QR_ARGS=() SSH_ARGS=() XPK_ARGS=() SBATCH_ARGS=()
  SERVICE_ACCOUNT='' VOLUME_CLAIM='' VOLUME_PATH='' PARTITION='' ACCOUNT='' QUEUE=''
  # shellcheck source=example.env
  source "$env_file"
  GO=$go ENV_FILE=$env_file
}

# need NAME...: they are set, and no longer the example's.
need() {
  local name value
  local word='project|zone|location|cluster|run|bucket|registry|organization'
  for name; do
    value=${!name-}
    [[ -n $value ]] || fail "$name is not set; set it in $ENV_FILE"
    if [[ $value =~ (^|/)my-($word)($|[/:]) ]]; then
      ((!GO)) || fail "$name=$value is the example's; set it in $ENV_FILE"
    fi
  done
}

# numbers NAME...: whole numbers from 0 (from 1 for what is counted).
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

# one_of NAME VALUE...
one_of() {
  local name=$1 value
  shift
  for value; do [[ ${!name-} != "$value" ]] || return 0; done
  fail "$name=${!name-} must be one of: $*; set it in $ENV_FILE"
}

# What every launcher needs; sets COMMAND, the program with its arguments.
# PROCESSES of it start on each machine, under a supervisor whose exit code says
# whether to start again, even where the process died of a signal.
PROCESSES=1
check_run() {
  local pair
  need RUN_NAME PROGRAM CONFIG WORKDIR
  [[ $WORKDIR != *://* ]] || fail "WORKDIR=$WORKDIR is an address; name a \
folder that all machines share, on Filestore or NFS"
  numbers MAX_RESTARTS RESTART_DELAY GRACE_SECONDS
  # It names pods, nodes and jobs, which add to it and may have 63 letters.
  [[ $RUN_NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] \
    || fail "RUN_NAME=$RUN_NAME must be at most 40 small letters, digits and \
hyphens, from a letter to a letter or digit"
  for pair in "${RUN_ENV[@]}"; do
    [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] \
      || fail "RUN_ENV: $pair must be NAME=VALUE"
  done
  COMMAND=("$PROGRAM" train "--config=$CONFIG" "--workdir=$WORKDIR"
    "--local_processes=$PROCESSES" "${TRAIN_ARGS[@]}")
}

# COMMAND in its environment; `env` becomes the program, so signals reach it.
command_with_env() {
  if ((${#RUN_ENV[@]})); then COMMAND=(env "${RUN_ENV[@]}" "${COMMAND[@]}"); fi
}

# actions NAME...: does ACTION by the function of that name. Without one, a dry
# run shows all.
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
  fail "unknown action $ACTION; there are: $*"
}
