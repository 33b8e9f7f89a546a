"""Where a run's images come from."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from bigscale.spec.base import require

# Threads, processes, or batches in memory.
MOST_AT_ONCE = 4096
MOST_PADDING = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSpec:
  """One source of a mixture.

  Attributes:
    source: see `DataSpec.source`.
    share: of all images, in (0, 1]; the shares of a mixture sum to 1. Left 0
      in all of them where `DataSpec.temperature` gives the shares.
    subset: see `DataSpec.subset`.
    classes: see `DataSpec.classes`.
    padding: see `DataSpec.padding`.
    name: of the source in the names of joint classes; None takes `source`.
    labels: with joint labels, the label that each class of the source gets in
      the mixture; () gives it labels of its own.
  """

  source: str
  share: float = 0.0
  subset: int = 0
  classes: int = 0
  padding: int | None = None
  name: str | None = None
  labels: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    require(
      0 <= self.share <= 1,
      f"data.mixture: share={self.share} of {self.source!r} must lie in (0, 1]",
    )
    _check_subset(self.subset, self.classes)
    _check_padding(self.padding)
    require(
      all(label >= 0 for label in self.labels),
      f"data.mixture: labels={self.labels} of {self.source!r} must not be "
      "negative",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
  """Where images come from, and in which order.

  Attributes:
    source: an embedded set (`fashion_mnist`, `emoji`), a directory of shards
      with a `manifest.json`, a folder or .zip of images, an .npz, `tfds:NAME`,
      `stacked:SOURCE`, `synthetic:RECORDS:SIDE:CLASSES`, or a source of one's
      own, `package.module:Name:ARGUMENT` (docs/reference/data.md).
      '' with a mixture.
    mixture: sources drawn from at once, in place of `source`.
    mixture_labels: `joint`: the classes of all sources, one after the
      other or as `SourceSpec.labels` maps them; `source`: its number;
      `none`: no labels.
    temperature: where positive, a source of n images has a share in proportion
      to n^(1 / temperature): 1 by size, large values all alike.
    subset: where positive, train on so many images only. Smaller subsets lie
      inside larger ones; the seed of the run does not matter.
    classes: where positive, so many classes only, nested likewise.
    padding: pixels of black on each side of an image that is not of the
      model's size, before it is resized: 2 frames digits of 28 px to 32 px.
      None takes what the set's manifest says, else 0.
    flip: mirror half of the images, chosen by record.
    shuffle: another order every epoch; off reads the records as stored.
    shuffle_files: shards that are shuffled together; 0 takes all of them where
      their index fits in memory, else as many as do (`data.order`).
    fake_labels: labels of generated images: `uniform` over the classes, or
      `empirical`, those of the reals of the same batch. Losses that pair
      reals with fakes always take the latter.
    bad_records: `skip` puts another record in the place of one that cannot be
      read, `error` stops at the first.
    max_bad_fraction: of a source's records; more, and the run stops.
    prefetch: batches read ahead of the step.
    threads: that read and decode; 0 takes one where records are plain pixels
      (two would wait for each other at Python's lock) and two elsewhere.
      Storage that is far away wants more.
    workers: processes that read and decode in place of threads, where one
      process's threads decode too little: they wait for each other at Python's
      lock. On Linux.
  """

  source: str = ""
  mixture: tuple[SourceSpec, ...] = ()
  mixture_labels: Literal["joint", "source", "none"] = "joint"
  temperature: float = 0.0
  subset: int = 0
  classes: int = 0
  padding: int | None = None
  flip: bool = False
  shuffle: bool = True
  shuffle_files: int = 0
  fake_labels: Literal["uniform", "empirical"] = "uniform"
  bad_records: Literal["skip", "error"] = "skip"
  max_bad_fraction: float = 0.001
  prefetch: int = 2
  threads: int = 0
  workers: int = 0

  def __post_init__(self) -> None:
    require(
      bool(self.source) != bool(self.mixture),
      f"data.source={self.source!r} and data.mixture of {len(self.mixture)} "
      "sources: set one of them",
    )
    for name in ("prefetch", "threads", "workers", "shuffle_files"):
      value, least = getattr(self, name), int(name == "prefetch")
      require(value >= least, f"data.{name}={value} must be {least} or more")
      require(
        name == "shuffle_files" or value <= MOST_AT_ONCE,
        f"data.{name}={value} must be at most {MOST_AT_ONCE:,}",
      )
    require(
      0 <= self.max_bad_fraction <= 1,
      f"data.max_bad_fraction={self.max_bad_fraction} must lie in [0, 1]",
    )
    require(
      not (self.threads and self.workers),
      f"data.threads={self.threads} and data.workers={self.workers}: threads "
      "or processes read, not both; set one of them to 0",
    )
    _check_subset(self.subset, self.classes)
    _check_padding(self.padding)
    if self.mixture:
      self._check_mixture()
    else:
      require(
        self.temperature == 0,
        f"data.temperature={self.temperature} weighs the sources of a mixture; "
        "set data.mixture, or temperature to 0",
      )

  @property
  def sources(self) -> tuple[str, ...]:
    """All of them, in order."""
    return tuple(part.source for part in self.mixture or (self,))

  def with_sources(self, sources: Sequence[str]) -> "DataSpec":
    """The same with other sources, one for each of these."""
    if not self.mixture:
      return dataclasses.replace(self, source=sources[0])
    parts = zip(self.mixture, sources, strict=True)
    mixture = tuple(dataclasses.replace(p, source=s) for p, s in parts)
    return dataclasses.replace(self, mixture=mixture)

  def at(self, places: Sequence[str]) -> "DataSpec":
    """The same data at other places; names of classes stay what they are.

    Args:
      places: `PATH` for each source in order, or `OLD=NEW` for some of them;
        () leaves them where they are.

    Raises:
      SpecError: places and sources are not as many, or a place is empty.
    """
    named, listed = {}, []
    for place in places:
      old = next((s for s in self.sources if place.startswith(f"{s}=")), None)
      if old is None:
        listed.append(place)
      else:
        named[old] = place[len(old) + 1 :]
    require(
      not listed or (not named and len(listed) == len(self.sources)),
      f"--data={listed[0] if listed else ''} is one of {len(places)} places, "
      f"and the run reads {len(self.sources)} sources "
      f"({', '.join(map(repr, self.sources))}); give one --data=PATH for each, "
      "in this order, or --data=OLD=NEW for those that have moved",
    )
    sources = listed or [named.get(old, old) for old in self.sources]
    require(all(sources), "--data names no place; give --data=PATH")
    moved = self.with_sources(sources)
    if not moved.mixture:
      return moved
    mixture = tuple(
      new
      if new.source == old.source
      else dataclasses.replace(new, name=old.name or old.source)
      for old, new in zip(self.mixture, moved.mixture, strict=True)
    )
    return dataclasses.replace(moved, mixture=mixture)

  def _check_mixture(self) -> None:
    require(
      not (self.subset or self.classes) and self.padding is None,
      "data.subset, data.classes and data.padding are of one source; set those "
      "of each source in data.mixture",
    )
    require(
      self.temperature >= 0,
      f"data.temperature={self.temperature} must be positive, or 0 for given "
      "shares",
    )
    shares = [part.share for part in self.mixture]
    if self.temperature:
      require(
        not any(shares),
        f"data.temperature={self.temperature} gives the shares of the mixture; "
        f"remove share={max(shares)}, or set temperature to 0",
      )
      return
    total = math.fsum(shares)
    scaled = ", ".join(f"{share / (total or 1):.6g}" for share in shares)
    require(
      min(shares) > 0 and abs(total - 1) < 1e-6,
      f"data.mixture: shares {', '.join(map(str, shares))} must all be "
      f"positive and sum to 1, not {total:.6g}; use {scaled}, or "
      "data.temperature",
    )


def _check_padding(padding: int | None) -> None:
  require(
    padding is None or 0 <= padding <= MOST_PADDING,
    f"data.padding={padding} must be 0 to {MOST_PADDING} pixels, or None for "
    "what the set's manifest says",
  )


def _check_subset(subset: int, classes: int) -> None:
  require(subset >= 0, f"data.subset={subset} must be 0 or more images")
  require(classes >= 0, f"data.classes={classes} must be 0 or more classes")
