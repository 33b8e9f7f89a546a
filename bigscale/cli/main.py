"""The `bigscale` program: finds the subcommand and answers for its errors."""

import difflib
import importlib
import io
import keyword
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from bigscale.cli.common import Subcommand
from bigscale.cli.overrides import rewrite
from bigscale.data.shown import shown, shown_lines
from bigscale.parallel.environment import prepare_cpu
from bigscale.spec import SpecError

# In the order of a first visit. Each is a module `bigscale.cli.NAME` (`NAME_`
# for a word of Python's own) with a docstring (the help), and either FLAGS and
# `run(*arguments) -> int`, of which it takes MAX_ARGUMENTS, none by default; or
# SUBCOMMANDS, by name, with USAGE where their names do not say it.
COMMANDS = {
  "train": "train a GAN, or resume a training",
  "sample": "draw images from a trained generator",
  "evaluate": "score a trained generator",
  "report": "write a run's report.html",
  "data": "build, inspect or verify a data set in shards",
  "monitor": "judge a recorded training, or drill the collapse monitor",
  "scaling": "run a sweep, fit and draw scaling laws, measure gradient noise",
  "plan": "what a run would cost on a TPU slice, without a TPU",
  "bench": "time a run's step on the devices here",
  "import": "make a run of another implementation's weights",
  "export": "write a trained generator as a StableHLO program",
}

_HOME = re.compile(r"(?<=[=,])~[\w.-]*(?=/|$)")

# Options that name a place on a disk; those of data may be addresses.
_ON_DISK = (
  "out",
  "workdir",
  "init_from",
  "neighbours",
  "statistics",
  "write_statistics",
  "jobs",
  "baseline",
)

DONE, BUG, USAGE, DIVERGED, PREEMPTED = 0, 1, 2, 3, 75
# By the name of an exception: importing its module would load JAX.
_ENDINGS = {
  "DivergedError": DIVERGED,
  "PreemptedError": PREEMPTED,
  "ReplicaError": BUG,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one subcommand.

  Args:
    argv: program name and arguments; the process's own where None.

  Returns:
    0 done; 1 an unexpected exception; 2 bad usage, config or input; 3 a
    training that is lost; 75 one that was asked to end and has saved itself;
    76 one of several processes that has lost another. See the README.
  """
  argv = list(sys.argv if argv is None else argv)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # Names of files and classes need not be Unicode.
    sys.stdout.reconfigure(errors="backslashreplace")
  name = argv[1] if len(argv) > 1 else "--help"
  if name in ("-h", "--help", "help"):
    print(_overview())
    return DONE if len(argv) > 1 else USAGE
  if name not in COMMANDS:
    return _refuse(f"unknown command {name!r}\n\n{_overview()}")
  # Before anything imports JAX.
  prepare_cpu()
  return _answer(name, [name, *map(_at_home, argv[2:])])


def _at_home(argument: str) -> str:
  """Returns a flag with ~ expanded in its values.

  Shells expand it at the start of a word only, so not in --workdir=~/runs.
  """
  if not argument.startswith("-"):
    return argument
  return _HOME.sub(lambda found: os.path.expanduser(found[0]), argument)


def _answer(name: str, argv: list[str]) -> int:
  """Parses flags, runs, and turns exceptions into exit codes."""
  from absl import logging

  module = f"{name}_" if keyword.iskeyword(name) else name
  command = importlib.import_module(f"bigscale.cli.{module}")
  logging.use_absl_handler()
  # Orbax alone says dozens of lines at INFO.
  logging.set_verbosity(logging.WARNING)
  logging.set_stderrthreshold("warning")
  logging.get_absl_handler().addFilter(_show_names)
  # What is recorded as the run's command.
  sys.argv = argv
  for_help = any(arg in ("-h", "--help", "-help") for arg in argv)
  if for_help and all(arg.startswith("-") for arg in argv[1:]):
    print(_about(name, command))
    return DONE
  try:
    title, chosen, argv = _choose(name, command, argv)
    if for_help:
      print(_help(title, chosen))
      return DONE
    arguments = _parse(title, chosen, command, argv)
  except SpecError as error:
    return _refuse(str(error))
  try:
    return chosen.run(*arguments)
  except (SpecError, *_input_errors()) as error:
    _failed(error, USAGE)
    return _refuse(str(error))
  except KeyboardInterrupt:
    print("bigscale: interrupted", file=sys.stderr)
    return 130
  except Exception as error:
    if isinstance(error, BrokenPipeError) and _nobody_reads():
      return 128 + signal.SIGPIPE
    if type(error).__name__ in _ENDINGS:
      print(f"bigscale: {shown_lines(str(error))}", file=sys.stderr)
      return _ENDINGS[type(error).__name__]
    code = _failed(error, 0)
    if not code:
      traceback.print_exc()
    return code or BUG


def _show_names(record: Any) -> bool:
  """Escapes what does not print in the words that a line of the log names."""
  if isinstance(record.args, tuple):
    record.args = tuple(
      shown(str(word)) if isinstance(word, (str, Exception)) else word
      for word in record.args
    )
  return True


def _parse(
  title: str, chosen: Subcommand, command: Any, argv: list[str]
) -> list[str]:
  """Sets the flags of a part of a command; returns the other words.

  Raises:
    SpecError: a flag or the config is refused, or a word is too many.
  """
  from absl import flags

  # Configs import their neighbours, and families of models by name.
  sys.path.append(os.getcwd())
  _forget(chosen.flags)
  try:
    rest = chosen.flags(rewrite(argv) if "config" in chosen.flags else argv)
  except flags.UnrecognizedFlagError as error:
    message = _unknown_flag(error.flagname, title, chosen, command)
    raise SpecError(message) from error
  except flags.Error as error:
    raise SpecError(_flag_error(error, argv)) from error
  except ImportError as error:
    raise SpecError(
      f"--config: {error}; start where it can be imported from, or set "
      "PYTHONPATH (a shipped config: from bigscale.configs import NAME)"
    ) from error
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise SpecError(
      f"--config: {type(error).__name__}: {error}; the config file fails where "
      "it is read"
    ) from error
  if "config" in chosen.flags and chosen.flags.config is None:
    for setting in chosen.flags.config_set:
      raise SpecError(
        f"--config is missing; --config.{setting} changes a setting of it"
      )
  _check_places(chosen.flags)
  arguments, extra = rest[1:], rest[1 + chosen.max_arguments :]
  if extra:
    raise SpecError(
      f"unexpected argument {extra[0]!r}; options are written --name=value "
      f"(see bigscale {title} --help)"
    )
  return arguments


def _check_places(values: Any) -> None:
  """Refuses addresses in options that take a local path.

  A folder named `gs:` would be made otherwise.

  Raises:
    SpecError: an option, or $BIGSCALE_CACHE, is an address.
  """
  named = {
    f"--{name}": values[name].value for name in _ON_DISK if name in values
  }
  named["$BIGSCALE_CACHE"] = os.environ.get("BIGSCALE_CACHE")
  for name, value in named.items():
    if "://" in str(value):
      raise SpecError(
        f"{name}={value} is an address, not a folder; mount a disk "
        "(Filestore, NFS) and name a path there"
      )


def _choose(
  name: str, command: Any, argv: list[str]
) -> tuple[str, Subcommand, list[str]]:
  """The part of a command that is asked for, and the words for it.

  Args:
    name: of the command.
    command: its module.
    argv: the command's name and its words.

  Returns:
    What the part is called, the part, and `argv` without its name.

  Raises:
    SpecError: the command has no such part.
  """
  parts = getattr(command, "SUBCOMMANDS", None)
  if parts is None:
    words = getattr(command, "MAX_ARGUMENTS", 0)
    whole = Subcommand(command.FLAGS, command.run, command.__doc__, words)
    return name, whole, argv
  words = [word for word in argv[1:] if not word.startswith("-")]
  part = words[0] if words else ""
  if part not in parts:
    usage = getattr(command, "USAGE", f"bigscale {name} {' | '.join(parts)}")
    raise SpecError(f"{name} {part!r} is unknown; use: {usage}")
  place = argv.index(part, 1)
  return f"{name} {part}", parts[part], argv[:place] + argv[place + 1 :]


def _unknown_flag(
  flag: str, title: str, chosen: Subcommand, command: Any
) -> str:
  """Says so, and which other parts of the command have it."""
  others = [
    name
    for name, part in getattr(command, "SUBCOMMANDS", {}).items()
    if flag.partition(".")[0] in part.flags
  ]
  known = ", ".join(f"--{one}" for one in _names(chosen))
  message = f"{title} has no option --{flag}"
  if others:
    message += f", which is one of {title.split()[0]} {', '.join(others)}"
  close = difflib.get_close_matches(flag, _names(chosen), n=1)
  if close:
    message += f"; did you mean --{close[0]}?"
  return f"{message}; its options: {known} (see bigscale {title} --help)"


def _forget(values: Any) -> None:
  """Drops what an earlier call in this process was told (`FlagValues`)."""
  for name in values:
    # Those with a dot are the config's, which a config file defines anew.
    if "." not in name:
      values[name].unparse()


def _nobody_reads() -> bool:
  """Whether what is printed goes nowhere: `head` has seen enough and left."""
  pipe = select.poll()
  pipe.register(sys.stdout.fileno(), 0)
  if not any(found & select.POLLERR for _, found in pipe.poll(0)):
    return False
  # Python would find it broken once more on its way out.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return True


def _failed(error: Exception, code: int) -> int:
  """The exit code of an exception that several processes may have to share."""
  if "jax" not in sys.modules:
    return code
  import jax

  from bigscale.parallel import multihost

  if jax.distributed.is_initialized():
    # It has printed the traceback.
    return multihost.fail(error)
  return code


def _input_errors() -> tuple[type[Exception], ...]:
  from bigscale.report import ReportError

  return (ReportError,)


def _flag_error(error: Exception, argv: list[str]) -> str:
  """What is wrong with the flags, in one line.

  A config file that refuses its argument is quoted; one that fails, by the
  last line, where the cause is.
  """
  message, chain = str(error), [error]
  while chain[-1].__context__:
    chain.append(chain[-1].__context__)
  # ml_collections wraps an error in others of its type; the first is the last.
  refusals = [cause for cause in chain if isinstance(cause, SpecError)]
  if refusals:
    given = (arg for arg in argv if arg.startswith("--config="))
    config = next(given, "--config")
    return f"{config}: {refusals[-1]}"
  before, found, after = message.partition("Traceback (most recent call last)")
  if not found:
    return message
  return f"{before.strip()} {after.strip().splitlines()[-1]}"


def _refuse(message: str) -> int:
  print(f"bigscale: {shown_lines(message)}", file=sys.stderr)
  return USAGE


def _overview() -> str:
  width = max(map(len, COMMANDS))
  rows = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
  return "\n".join(
    [
      "usage: bigscale COMMAND [--option=value ...]",
      "",
      *rows,
      "",
      "bigscale COMMAND --help tells more, with an example.",
    ]
  )


def _about(name: str, command: Any) -> str:
  """The help of a command as a whole."""
  parts = getattr(command, "SUBCOMMANDS", None)
  if parts is None:
    return _help(*_choose(name, command, [name])[:2])
  width = max(map(len, parts))
  rows = [
    f"  {part:{width}}  {found.help.strip().splitlines()[0]}"
    for part, found in parts.items()
  ]
  more = f"bigscale {name} {next(iter(parts))} --help lists its options."
  return "\n".join([command.__doc__.strip(), "", *rows, "", more])


def _names(command: Subcommand) -> list[str]:
  """Its flags, in the order of their definition; not those of a config."""
  return list(
    dict.fromkeys(
      flag.name
      for flag in command.flags._flags().values()
      if flag.short_name != "?" and "." not in flag.name
    )
  )


def _help(title: str, command: Subcommand) -> str:
  options = []
  for name in _names(command):
    flag = command.flags[name]
    default = "" if flag.default is None else f" [{flag.default_as_str}]"
    options.append(f"  --{name}{default}\n      {flag.help}")
  heading = ["", f"options of bigscale {title}:"] if options else []
  return "\n".join([command.help.strip(), *heading, *options])


def entry_point() -> None:
  """What the installed program calls."""
  try:
    code = main()
    sys.stdout.flush()
  except BrokenPipeError:
    # Whoever read this, as `head`, has enough. Python flushes once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 128 + 13
  if "jax" in sys.modules:
    from bigscale.parallel import multihost

    multihost.leave(code)
  sys.exit(code)


if __name__ == "__main__":
  entry_point()
