"""What people have on disk in place of a file of weights, in one message each.

And what trainings wrap their networks in, taken off.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

# What trainings call their networks, by our names for the players.
_PLAYERS = {
  "G": ("G", "g", "netG", "generator", "gen"),
  "D": ("D", "d", "netD", "discriminator", "dis"),
  "G_ema": ("G_ema", "g_ema", "netG_ema", "generator_ema", "ema"),
}
_ENDINGS = ("", "_state_dict", "_state", "_model")
# A name that only this format's G, or D, has; G's are looked for first.
_SIGNATURES = {
  ("r3gan", "G"): r"AggregationLayer\..+",
  ("r3gan", "D"): r"ExtractionLayer\..+",
  ("biggan-pytorch", "G"): r"blocks\.\d+\.\d+\.bn\d\..+",
  ("biggan-pytorch", "D"): r"blocks\.\d+\.\d+\.conv\d\.weight",
  ("biggan-tfhub", "G"): r"(module/)?Generator/.+",
  ("biggan-hf", "G"): r"generator\.layers\..+",
}
# As people know it.
_LOOK = {
  "r3gan": "MainLayers.*",
  "biggan-pytorch": "blocks.*",
  "biggan-tfhub": "Generator/*",
  "biggan-hf": "generator.layers.*",
}
# Around the only network of a file.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "weights")
_HEAD = 512
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_CLASS = re.compile(r"GLOBAL ([\w.]+)")


def not_weights(path: pathlib.Path) -> str:
  """Returns what a file is if it can be no file of weights, else ""."""
  with open(path, "rb") as file:
    head = file.read(_HEAD)
  if not head:
    return (
      f"{path} cannot be read: it is empty (cut short to 0 bytes); download it "
      "again"
    )
  if head.startswith(b"version https://git-lfs.github.com/spec/"):
    size = re.search(rb"^size (\d+)", head, re.MULTILINE)
    of = f" of {int(size[1]):,} bytes" if size else ""
    return (
      f"{path} is a Git LFS pointer: a few lines that stand for the file"
      f"{of}; fetch it with `git lfs pull` in its repository, or download it "
      "from the repository's page"
    )
  if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
    return (
      f"{path} is a web page, not weights: the download brought a page about "
      "the file, a login or an error in its place; download the file itself "
      "(its `raw` or `resolve` address, not `blob`)"
    )
  return ""


def torch_refusal(path: pathlib.Path, error: Exception) -> str:
  """Returns what PyTorch's refusal of a file means, or "" where unknown.

  PyTorch's own text advises to switch off `weights_only`, which would run the
  code in the file.
  """
  said = str(error)
  if "TorchScript" in said:
    return (
      f"{path} is a TorchScript program, not weights; save its state dict: "
      "torch.save(torch.jit.load(FILE).state_dict(), ...)"
    )
  if name := _CLASS.search(said):
    return (
      f"{path} holds an object of {name[1]}, not weights alone: a whole "
      "module, or a training's settings, were pickled, and reading that would "
      "run code. Where it was made, save the state dict: "
      "torch.save(model.state_dict(), ...)"
    )
  if "weights_only" in said:
    return (
      f"{path} cannot be read as a PyTorch file of weights; it may be cut "
      "short or of another kind: compare its size and checksum with its "
      "source's"
    )
  return ""


def plain(text: str) -> str:
  """Returns a text without the codes that color a terminal."""
  return _COLORS.sub("", text)


def players_of(tree: Any) -> Any:
  """Returns the networks alone of what a training saved of itself.

  Args:
    tree: of dictionaries. One with networks by name (G, netG_state_dict,
      g_ema ...) gives these under `G`, `D` and `G_ema`; one that wraps a
      network (`state_dict` ...) gives what is in it; others come back as they
      are.
  """
  if not isinstance(tree, Mapping):
    return tree
  networks = {}
  for player, names in _PLAYERS.items():
    for name in (f"{name}{ending}" for name in names for ending in _ENDINGS):
      if _is_network(tree.get(name)):
        networks.setdefault(player, tree[name])
  if networks:
    return networks
  for name in _WRAPPERS:
    if _is_network(tree.get(name)):
      return players_of(tree[name])
  return tree


def another_network(format_name: str, player: str, names: Iterable[str]) -> str:
  """Returns what tensors are if they are not this player's, else "".

  Args:
    format_name: of the weights; one of a user's own family is not told apart.
    player: "G" or "D".
    names: of the tensors.
  """
  if format_name not in _LOOK:
    return ""
  names = list(names)
  kinds = [
    kind
    for kind, pattern in _SIGNATURES.items()
    if any(re.fullmatch(pattern, name) for name in names)
  ]
  if (format_name, player) in kinds[:1] or (player == "D" and not kinds):
    return ""
  title = {"G": "generator", "D": "discriminator"}
  if not kinds:
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
      f"of its {len(names)} tensors{f' ({listed})' if names else ''} none is "
      f"of a generator of --format={format_name}, whose names are "
      f"{_LOOK[format_name]}; choose a file of that kind, or another --format"
    )
  there, who = kinds[0]
  if there != format_name:
    return (
      f"they look like a {title[who]} of --format={there}; choose another "
      f"--format than {format_name}, or another file"
    )
  return (
    f"they are a {title[who]}'s in place of the {title[player]}'s; name the "
    "generator's file first and the discriminator's second"
  )


def _is_network(value: Any) -> bool:
  if hasattr(value, "state_dict"):
    return True
  return isinstance(value, Mapping) and len(value) > 0


def narrow_floats(dtypes: Mapping[str, Any]) -> list[str]:
  """Returns the names of tensors of 8-bit floats, given dtypes by name."""
  return [
    name
    for name, dtype in dtypes.items()
    if re.search(r"float8|^F8", str(dtype), re.IGNORECASE)
  ]


def narrow_refusal(path: pathlib.Path, names: list[str]) -> str:
  """Returns the message for a file with tensors of 8-bit floats."""
  listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
  return (
    f"{path}: {len(names)} tensors are of 8-bit floats ({listed}), which hold "
    "2 or 3 bits of precision and mean little without scales kept elsewhere; "
    "take the file in float32, float16 or bfloat16"
  )
