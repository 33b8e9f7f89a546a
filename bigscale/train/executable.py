"""Saves the compiled training step, so that a run loads it.

`bigscale compile` writes a file on any machine that has the compiler, also for
devices that are not attached. A file is a zip archive with `key.json`, which
says what the program was compiled from and for, and JAX's serialized
executable. Loading an executable runs what it contains, so use only files from
people you trust.
"""

import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.experimental import serialize_executable

from bigscale.parallel import compiler, multihost
from bigscale.place import open_object, open_place
from bigscale.spec import SpecError, require, to_json
from bigscale.train.build import Built
from bigscale.types import PyTree

FILE = "step.executable"
_KEY, _PROGRAM = "key.json", "program"
# Groups of the spec that do not change the step. `log.noise_scale` does.
_UNRELATED = ("seed", "checkpoint", "evaluate", "sampling", "operations", "log")
_PARTS = {
  "sources": "source code of bigscale",
  "options": "compiler options",
  "config": "settings of the run",
}
_log = logging.getLogger(__name__)

Key = dict[str, Any]


class LoadedStep:
  """A loaded step, which is called like `Built.step`."""

  def __init__(
    self, compiled: jax.stages.Compiled, jitted: Callable[..., Any]
  ) -> None:
    """Initializes the step.

    Args:
      compiled: the loaded program.
      jitted: the step to compile for other arguments.
    """
    self._compiled, self._jitted = compiled, jitted

  def __call__(self, *inputs: PyTree) -> Any:
    """Computes a step; compiles it if the batch size has changed."""
    usual = len(inputs) == 2
    return (self._compiled if usual else self._jitted)(*inputs)

  def lower(self, *inputs: PyTree) -> Any:
    """Lowers the step that this program was compiled from."""
    return self._jitted.lower(*inputs)


def key_of(built: Built) -> Key:
  """Returns all that determines the compiled step, as JSON values."""
  settings = to_json(built.spec)
  settings = {k: v for k, v in settings.items() if k not in _UNRELATED}
  settings["noise_scale"] = built.spec.log.noise_scale
  devices = built.mesh.devices
  key = {
    "devices": {
      "kind": devices.flat[0].device_kind,
      "shape": list(devices.shape),
      "order": _hash([_place(device) for device in devices.flat]),
    },
    "versions": compiler.versions(),
    "sources": compiler.sources(),
    "options": {
      **compiler.environment(built.compiler_options),
      "compiler_options": dict(built.compiler_options),
    },
    "config": _hash(settings),
  }
  return json.loads(json.dumps(key))


def write(
  path: str | os.PathLike[str], built: Built, compiled: jax.stages.Compiled
) -> int:
  """Writes a compiled step; returns the size of the file in bytes.

  Args:
    path: path or address of the file, which is replaced atomically.
    built: the run's functions.
    compiled: `built.step`, compiled for the abstract state and batch.

  Raises:
    SpecError: the compiler cannot serialize the program.
    OSError: the file cannot be written.
  """
  try:
    payload, _, out_tree = serialize_executable.serialize(compiled)
  except (ValueError, NotImplementedError) as error:
    raise SpecError(
      f"this compiler cannot save programs ({error}); the run's compilation "
      "cache (operations.keep_programs) keeps them after the first start"
    ) from error
  _, scalars = out_tree.unflatten(range(out_tree.num_leaves))
  key = key_of(built) | {"scalars": sorted(scalars)}
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(_KEY, json.dumps(key, indent=1))
    archive.writestr(_PROGRAM, payload)
  place, name = open_object(path)
  place.write(name, content.getvalue())
  return len(content.getvalue())


def with_saved_step(
  built: Built, workdir: str | os.PathLike[str], named: str | None = None
) -> Built:
  """Returns the run's functions with a saved step, if one fits.

  All processes load the step, or none does. If a saved step does not fit, a
  warning says why, and the step is compiled as usual.

  Args:
    built: the run's functions.
    workdir: path or address of the run, whose file is used by default.
    named: path or address of a file that the user named.

  Raises:
    SpecError: the named file is no saved step, or it is for other devices.
  """
  path = named or f"{os.fspath(workdir)}/{FILE}"
  step, reason = None, None
  if named or open_place(workdir).entry(FILE) is not None:
    step, reason = _load(path, built, named=bool(named))
  without = multihost.gather("executable", [] if step else [reason])
  if multihost.decide("executable", lambda: not without):
    return built._replace(step=step)
  if reason:
    _log.warning("%s is not used: %s. The step is compiled", path, reason)
  return built


def _load(
  path: str, built: Built, *, named: bool
) -> tuple[LoadedStep | None, str | None]:
  """Returns the step in a file, or None and why it does not fit."""
  remedy = "; write it again with bigscale compile"
  try:
    place, name = open_object(path)
    with zipfile.ZipFile(io.BytesIO(place.read(name))) as archive:
      key = json.loads(archive.read(_KEY))
      payload = archive.read(_PROGRAM)
    scalars = key.pop("scalars")
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    require(
      not named, f"--executable={path} is not a saved step ({error}){remedy}"
    )
    return None, f"it cannot be read ({error}){remedy}"
  wanted = key_of(built)
  if key.get("devices") != wanted["devices"]:
    reason = (
      f"it is for {_text(key.get('devices'))}, but this run has "
      f"{_text(wanted['devices'])}{remedy} for these devices"
    )
    require(not named, f"--executable={path}: {reason}, or omit the flag")
    return None, reason
  changed = [name for name in wanted if key.get(name) != wanted[name]]
  if changed:
    details = ", ".join(_difference(n, key.get(n), wanted[n]) for n in changed)
    return None, f"it was compiled from other {details}{remedy}"
  try:
    return _unpack(payload, scalars, built), None
  except Exception as error:
    # Each backend has errors of its own, and the run can compile.
    why = f"{type(error).__name__}: {error}".partition("\n")[0]
    return None, f"the devices cannot load it ({why}){remedy}"


def _unpack(payload: bytes, scalars: list[str], built: Built) -> LoadedStep:
  state = built.abstract_state
  in_tree = jax.tree.structure(((state, built.abstract_batch), {}))
  out_tree = jax.tree.structure((state, dict.fromkeys(scalars, 0)))
  devices = built.mesh.devices.flatten().tolist()
  compiled = serialize_executable.deserialize_and_load(
    payload,
    in_tree,
    out_tree,
    backend=devices[0].client,
    execution_devices=devices,
  )
  return LoadedStep(compiled, built.step)


def _place(device: Any) -> list[Any]:
  """Returns the place of a device in the machine."""
  names = ("id", "process_index", "coords", "core_on_chip", "slice_index")
  return [getattr(device, name, None) for name in names]


def _text(devices: Mapping[str, Any] | None) -> str:
  if not devices:
    return "unknown devices"
  shape = "x".join(map(str, devices["shape"]))
  return f"{shape} {devices['kind']} (order {devices['order'][:6]})"


def _difference(name: str, old: Any, new: Any) -> str:
  """Describes how a part of the key differs; names versions that differ."""
  if name != "versions" or not isinstance(old, Mapping):
    return _PARTS.get(name, name)
  packages = sorted(old.keys() | new.keys())
  return (
    "versions ("
    + ", ".join(
      f"{package} {old.get(package)}, here {new.get(package)}"
      for package in packages
      if old.get(package) != new.get(package)
    )
    + ")"
  )


def _hash(value: Any) -> str:
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
