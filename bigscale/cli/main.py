"""The `bigscale` program: finds a command, runs it, returns an exit code.

The command NAME is the module `bigscale.cli.NAME` (`NAME_` for a word of
Python's own): its docstring is the help, `FLAGS` are its flags, and `run` gets
the words that are no flags and returns the exit code. A command of several
parts is a package with `PARTS`, the names of such modules in it.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import io
import keyword
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from bigscale.cli.flags import UnknownFlagError
from bigscale.data.shown import shown, shown_lines
from bigscale.parallel.environment import prepare_cpu
from bigscale.spec import SpecError

# In the order of a first visit.
COMMANDS = (
  "train",
  "sample",
  "evaluate",
  "report",
  "config",
  "data",
  "monitor",
  "scaling",
  "plan",
  "bench",
  "import",
  "export",
)

_HOME = re.compile(r"(?<=[=,])~[\w.-]*(?=/|$)")
_HELP = ("-h", "--help", "-help")

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
  return _answer(name, list(map(_at_home, argv[2:])))


def _at_home(argument: str) -> str:
  """Returns a flag with ~ expanded in its values.

  Shells expand it at the start of a word only, so not in --workdir=~/runs.
  """
  if not argument.startswith("-"):
    return argument
  return _HOME.sub(lambda found: os.path.expanduser(found[0]), argument)


def _answer(name: str, words: list[str]) -> int:
  """Parses flags, runs, and turns exceptions into exit codes."""
  from absl import logging

  logging.use_absl_handler()
  # Orbax alone says dozens of lines at INFO.
  logging.set_verbosity(logging.WARNING)
  logging.set_stderrthreshold("warning")
  logging.get_absl_handler().addFilter(_show_names)
  # What is recorded as the run's command.
  sys.argv = [name, *words]
  # Configs import their neighbours, and families of models by name.
  sys.path.append(os.getcwd())
  for_help = any(word in _HELP for word in words)
  try:
    if for_help and all(word.startswith("-") for word in words):
      print(_help(name, _load(name)))
      return DONE
    title, command, words = _find(name, words)
    if for_help:
      print(_help(title, command))
      return DONE
    arguments = _read(title, command, words)
  except SpecError as error:
    return _refuse(str(error))
  return _run(command, arguments)


def _run(command: ModuleType, arguments: Sequence[str]) -> int:
  try:
    return command.run(*arguments)
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


def _load(*path: str) -> ModuleType:
  """Imports a command, or a part of one."""
  return importlib.import_module(_module_name(*path))


def _module_name(*path: str) -> str:
  names = [f"{one}_" if keyword.iskeyword(one) else one for one in path]
  return ".".join(["bigscale.cli", *names])


def _find(name: str, words: list[str]) -> tuple[str, ModuleType, list[str]]:
  """Finds what is to be run.

  Args:
    name: of the command.
    words: what follows it.

  Returns:
    What it is called, its module, and the words without the name of a part.

  Raises:
    SpecError: the command has no such part.
  """
  command = _load(name)
  parts = getattr(command, "PARTS", None)
  if parts is None:
    return name, command, words
  part = next((word for word in words if not word.startswith("-")), "")
  if part not in parts:
    raise SpecError(
      f"{name} {part!r} is unknown; use: bigscale {name} {' | '.join(parts)}"
    )
  place = words.index(part)
  return f"{name} {part}", _load(name, part), words[:place] + words[place + 1 :]


def _read(title: str, command: ModuleType, words: list[str]) -> Sequence[str]:
  """Sets the flags of a command, and returns the words that are none.

  Raises:
    SpecError: a flag or the config is refused, or a word is too many.
  """
  try:
    arguments = command.FLAGS.read([title, *words])
  except UnknownFlagError as error:
    raise SpecError(_unknown_flag(error.flagname, title, command)) from error
  most = len(inspect.signature(command.run).parameters)
  if len(arguments) > most:
    raise SpecError(
      f"unexpected argument {arguments[most]!r}; options are written "
      f"--name=value (see bigscale {title} --help)"
    )
  return arguments


def _unknown_flag(flag: str, title: str, command: ModuleType) -> str:
  """Returns the message, with the other parts of the command that have it."""
  name, *part = title.split()
  others = [
    other
    for other in (_load(name).PARTS if part else ())
    if flag.partition(".")[0] in _load(name, other).FLAGS
  ]
  names = command.FLAGS.names()
  known = ", ".join(f"--{one}" for one in names)
  message = f"{title} has no option --{flag}"
  if others:
    message += f", which is one of {name} {', '.join(others)}"
  close = difflib.get_close_matches(flag, names, n=1)
  if close:
    message += f"; did you mean --{close[0]}?"
  return f"{message}; its options: {known} (see bigscale {title} --help)"


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


def _refuse(message: str) -> int:
  print(f"bigscale: {shown_lines(message)}", file=sys.stderr)
  return USAGE


def _overview() -> str:
  return "\n".join(
    [
      "usage: bigscale COMMAND [--option=value ...]",
      "",
      *_summaries(COMMANDS),
      "",
      "bigscale COMMAND --help tells more, with an example.",
    ]
  )


def _summaries(names: Sequence[str], *above: str) -> list[str]:
  """Returns the first line of each command's help.

  Modules are read, not imported, so that an overview is quick.
  """
  lines, width = [], max(map(len, names))
  for name in names:
    module = _module_name(*above, name)
    source = importlib.util.find_spec(module).loader.get_source(module)
    summary = ast.get_docstring(ast.parse(source)).partition("\n")[0]
    lines.append(f"  {name:{width}}  {summary}")
  return lines


def _help(title: str, command: ModuleType) -> str:
  """Returns the help of a command or a part; of several parts, an overview."""
  lines = [command.__doc__.strip(), ""]
  if parts := getattr(command, "PARTS", ()):
    more = f"bigscale {title} {parts[0]} --help lists its options."
    lines += [*_summaries(parts, title), "", more]
  elif command.FLAGS.names():
    lines += [f"options of bigscale {title}:", command.FLAGS.help()]
  return "\n".join(lines)


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
