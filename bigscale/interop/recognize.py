"""Recognizes files that are not weights, and explains each in one message.

It also unwraps the networks from the dictionaries that training code saves.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

# Names that training code uses for its networks, by our names for the players.
_PLAYERS = {
  "G": ("G", "g", "netG", "generator", "gen"),
  "D": ("D", "d", "netD", "discriminator", "dis"),
  "G_ema": ("G_ema", "g_ema", "netG_ema", "generator_ema", "ema"),
}
_ENDINGS = ("", "_state_dict", "_state", "_model")
# Keys under which a file's only network is stored.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "weights")
_HEAD = 512
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_CLASS = re.compile(r"GLOBAL ([\w.]+)")


def not_weights(path: pathlib.Path) -> str:
  """Returns why a file cannot contain weights, or ""."""
  with open(path, "rb") as file:
    head = file.read(_HEAD)
  if not head:
    return (
      f"{path} cannot be read: it is empty (truncated to 0 bytes); download it "
      "again"
    )
  if head.startswith(b"version https://git-lfs.github.com/spec/"):
    size = re.search(rb"^size (\d+)", head, re.MULTILINE)
    of = f" of a file of {int(size[1]):,} bytes" if size else ""
    return (
      f"{path} is a Git LFS pointer{of}, not the file itself; fetch it with "
      "`git lfs pull` in its repository, or download it from the repository's "
      "page"
    )
  if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
    return (
      f"{path} is a web page, not weights: the server sent a page about the "
      "file, a login page or an error page instead of the file; download the "
      "file itself (its `raw` or `resolve` address, not `blob`)"
    )
  return ""


def torch_refusal(path: pathlib.Path, error: Exception) -> str:
  """Explains PyTorch's refusal of a file; returns "" if it is unknown.

  PyTorch's own message advises disabling `weights_only`, which would run the
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
      f"{path} contains an object of {name[1]}, not only weights: it pickles a "
      "whole module or the settings of a training run, and reading it would "
      "run code. Save the state dict where the file was made: "
      "torch.save(model.state_dict(), ...)"
    )
  if "weights_only" in said:
    return (
      f"{path} cannot be read as a PyTorch file of weights; it may be "
      "truncated or of another format: compare its size and checksum with the "
      "original's"
    )
  return ""


def plain(text: str) -> str:
  """Returns a text without terminal color codes."""
  return _COLORS.sub("", text)


def players_of(tree: Any) -> Any:
  """Returns the networks in a dictionary that training code saved.

  Args:
    tree: nested dictionaries. Networks under known names (G, netG_state_dict,
      g_ema ...) are returned under `G`, `D` and `G_ema`. A wrapped network
      (`state_dict` ...) is unwrapped. Any other tree is returned unchanged.
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
    f"{path}: {len(names)} tensors are 8-bit floats ({listed}), which have 2 "
    "or 3 bits of precision and need scales that are stored elsewhere; use the "
    "file in float32, float16 or bfloat16"
  )
