"""The `bigscale` program: finds a command, runs it and returns an exit code.

The command NAME is the module `bigscale.cli.NAME` (`NAME_` if NAME is a Python
keyword). The module's docstring is the help text, `FLAGS` defines the flags,
and `run` takes the positional arguments and returns the exit code. A command
with subcommands is a package. Its `PARTS` lists the subcommands, which are
modules of the package.
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
from bigscale.place import StoreError
from bigscale.spec import SpecError

# Listed in the order in which a new user needs them.
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
  "compile",
  "profile",
  "bench",
  "import",
  "export",
)

_HOME = re.compile(r"(?<=[=,])~[\w.-]*(?=/|$)")
_HELP = ("-h", "--help", "-help")

DONE, BUG, USAGE, DIVERGED, PREEMPTED = 0, 1, 2, 3, 75
# Keys are class names, because importing the classes would load JAX.
_EXIT_CODES = {
  "DivergedError": DIVERGED,
  "PreemptedError": PREEMPTED,
  "ReplicaError": BUG,
  "LeaseLostError": BUG,
  "SaveFailedError": BUG,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one subcommand.

  Args:
    argv: program name and arguments. None uses `sys.argv`.

  Returns:
    The exit code: 0 success; 1 unexpected exception; 2 invalid usage, config
    or input; 3 training diverged; 75 training was preempted and saved a
    checkpoint; 76 another process of the run was lost. See
    docs/reference/exit-codes.md.
  """
  argv = list(sys.argv if argv is None else argv)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # File and class names may contain bytes that are not valid Unicode.
    sys.stdout.reconfigure(errors="backslashreplace")
  name = argv[1] if len(argv) > 1 else "--help"
  if name in ("-h", "--help", "help"):
    print(_overview())
    return DONE if len(argv) > 1 else USAGE
  if name not in COMMANDS:
    return _refuse(f"unknown command {name!r}\n\n{_overview()}")
  # This must happen before JAX is imported.
  prepare_cpu()
  return _run_command(name, list(map(_expand_home, argv[2:])))


def _expand_home(argument: str) -> str:
  """Returns a flag with ~ expanded in its value.

  Shells expand ~ only at the start of a word, so not in --workdir=~/runs.
  """
  if not argument.startswith("-"):
    return argument
  return _HOME.sub(lambda found: os.path.expanduser(found[0]), argument)


def _run_command(name: str, words: list[str]) -> int:
  """Parses the flags, runs the command and returns its exit code."""
  from absl import logging

  logging.use_absl_handler()
  # At INFO, Orbax logs dozens of lines.
  logging.set_verbosity(logging.WARNING)
  logging.set_stderrthreshold("warning")
  logging.get_absl_handler().addFilter(_escape_arguments)
  # The run's folder records this as its command.
  sys.argv = [name, *words]
  # Configs may import modules from the working directory.
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
    arguments = _parse(title, command, words)
  except SpecError as error:
    return _refuse(str(error))
  return _call(command, arguments)


def _call(command: ModuleType, arguments: Sequence[str]) -> int:
  """Runs a command and turns exceptions into exit codes."""
  try:
    return command.run(*arguments)
  except (SpecError, *_input_errors()) as error:
    _shared_exit_code(error, USAGE)
    return _refuse(str(error))
  except KeyboardInterrupt:
    print("bigscale: interrupted", file=sys.stderr)
    return 130
  except Exception as error:
    if isinstance(error, BrokenPipeError) and _stdout_is_closed():
      return 128 + signal.SIGPIPE
    if type(error).__name__ in _EXIT_CODES:
      print(f"bigscale: {shown_lines(str(error))}", file=sys.stderr)
      return _EXIT_CODES[type(error).__name__]
    code = _shared_exit_code(error, 0)
    if not code and isinstance(error, StoreError):
      print(f"bigscale: {shown_lines(str(error))}", file=sys.stderr)
    elif not code:
      traceback.print_exc()
    return code or BUG


def _escape_arguments(record: Any) -> bool:
  """Escapes unprintable characters in the arguments of a log record."""
  if isinstance(record.args, tuple):
    record.args = tuple(
      shown(str(word)) if isinstance(word, (str, Exception)) else word
      for word in record.args
    )
  return True


def _load(*path: str) -> ModuleType:
  """Imports the module of a command or subcommand."""
  return importlib.import_module(_module_name(*path))


def _module_name(*path: str) -> str:
  names = [f"{one}_" if keyword.iskeyword(one) else one for one in path]
  return ".".join(["bigscale.cli", *names])


def _find(name: str, words: list[str]) -> tuple[str, ModuleType, list[str]]:
  """Finds the module to run.

  Args:
    name: name of the command.
    words: arguments of the command.

  Returns:
    The full name of the command, its module, and the arguments without the
    name of the subcommand.

  Raises:
    SpecError: the command has no such subcommand.
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
  words = list(words)
  words.remove(part)
  return f"{name} {part}", _load(name, part), words


def _parse(title: str, command: ModuleType, words: list[str]) -> Sequence[str]:
  """Sets the flags of a command and returns its positional arguments.

  Raises:
    SpecError: a flag or the config is invalid, or there are too many
      positional arguments.
  """
  try:
    arguments = command.FLAGS.read([title, *words])
  except UnknownFlagError as error:
    raise SpecError(_unknown_flag(error.flagname, title, command)) from error
  most = len(inspect.signature(command.run).parameters)
  if len(arguments) > most:
    raise SpecError(
      f"unexpected argument {arguments[most]!r}; write flags as --name=value "
      f"(see bigscale {title} --help)"
    )
  return arguments


def _unknown_flag(flag: str, title: str, command: ModuleType) -> str:
  """Returns the error message, which names subcommands that have the flag."""
  name, *part = title.split()
  others = [
    other
    for other in (_load(name).PARTS if part else ())
    if flag.partition(".")[0] in _load(name, other).FLAGS
  ]
  names = command.FLAGS.names()
  known = ", ".join(f"--{one}" for one in names)
  message = f"{title} has no flag --{flag}"
  if others:
    message += f", which is a flag of {name} {', '.join(others)}"
  close = difflib.get_close_matches(flag, names, n=1)
  if close:
    message += f"; did you mean --{close[0]}?"
  return f"{message}; its flags: {known} (see bigscale {title} --help)"


def _stdout_is_closed() -> bool:
  """Returns whether the reader of stdout, such as `head`, has exited."""
  pipe = select.poll()
  pipe.register(sys.stdout.fileno(), 0)
  if not any(found & select.POLLERR for _, found in pipe.poll(0)):
    return False
  # Otherwise Python's flush at exit would raise the error again.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return True


def _shared_exit_code(error: Exception, code: int) -> int:
  """Reports an error to the run's other processes; returns the exit code.

  Args:
    error: the exception that ended the command.
    code: exit code if this is the only process.
  """
  if "jax" not in sys.modules:
    return code
  import jax

  from bigscale.parallel import multihost

  if jax.distributed.is_initialized():
    # This also prints the traceback.
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
      "Train and evaluate GANs with large batches, on a laptop or a TPU pod.",
      "",
      "Example:",
      "  bigscale train --config=fashion_r3gan --workdir=runs/fashion",
      "",
      "Usage: bigscale COMMAND [--flag=value ...]",
      "",
      "Commands:",
      *_summaries(COMMANDS),
      "",
      "`bigscale COMMAND --help` shows an example and all flags of a command.",
    ]
  )


def _summaries(names: Sequence[str], *above: str) -> list[str]:
  """Returns a line per command: its name and the first line of its help.

  Modules are parsed instead of imported, because some imports are slow.
  """
  lines, width = [], max(map(len, names))
  for name in names:
    module = _module_name(*above, name)
    source = importlib.util.find_spec(module).loader.get_source(module)
    summary = ast.get_docstring(ast.parse(source)).partition("\n")[0]
    lines.append(f"  {name:{width}}  {summary}")
  return lines


def _help(title: str, command: ModuleType) -> str:
  """Returns the help text of a command or subcommand."""
  lines = [command.__doc__.strip(), ""]
  if parts := getattr(command, "PARTS", ()):
    more = (
      f"`bigscale {title} {parts[0]} --help` shows the flags of a subcommand."
    )
    lines += ["Subcommands:", *_summaries(parts, title), "", more]
  else:
    lines.append(command.FLAGS.help())
  return "\n".join(lines)


def entry_point() -> None:
  """Runs the installed program."""
  try:
    code = main()
    sys.stdout.flush()
  except BrokenPipeError:
    # The reader, such as `head`, has exited. Python flushes again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 128 + 13
  if "jax" in sys.modules:
    from bigscale.parallel import multihost

    multihost.leave(code)
  sys.exit(code)


if __name__ == "__main__":
  entry_point()
