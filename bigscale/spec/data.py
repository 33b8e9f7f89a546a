"""Specs of the data set."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from bigscale.spec.base import require

# Maximum number of threads, processes or prefetched batches.
MAX_PARALLEL = 4096
MOST_PADDING = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSpec:
  """One source of a mixture.

  Attributes:
    source: the source, in the format of `DataSpec.source`.
    share: fraction of all images that come from this source, in (0, 1]. The
      shares of a mixture sum to 1. Leave all of them 0 if
      `DataSpec.temperature` is set.
    subset: number of images to train on, as in `DataSpec.subset`; 0 uses all.
    classes: number of classes to train on, as in `DataSpec.classes`; 0 uses
      all.
    padding: black pixels on each side, as in `DataSpec.padding`.
    name: name of the source in the names of joint classes; None uses `source`.
    labels: with joint labels, the label of each of the source's classes in the
      mixture; () gives the source labels that no other source has.
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
  """Where training images come from, and in which order.

  Attributes:
    source: the data set: an embedded set (`fashion_mnist`, `emoji`), a
      directory of shards with a `manifest.json`, a folder or .zip of images, an
      .npz file, `tfds:NAME`, `stacked:SOURCE`,
      `synthetic:RECORDS:SIDE:CLASSES`, or a user's own source
      `package.module:Name:ARGUMENT` (docs/how-to/extend.md). Must be '' if
      `mixture` is set.
    mixture: several sources to sample from, instead of `source`.
    mixture_labels: labels of a mixture's images: `joint` numbers the classes of
      all sources consecutively, or as `SourceSpec.labels` maps them; `source`
      uses the index of the source; `none` trains without labels.
    temperature: if positive, the share of a source with n images is
      proportional to n^(1 / temperature). 1 is proportional to size; large
      values approach equal shares. 0 uses `SourceSpec.share`.
    subset: number of images to train on; 0 uses all. A smaller subset is
      contained in every larger one and does not depend on the run's seed.
    classes: number of classes to train on; 0 uses all. A smaller selection is
      contained in every larger one.
    padding: black pixels added to each side of an image that is not of the
      model's size, before it is resized. A value of 2 pads digits of 28 px to
      32 px. None uses the value of the data set's manifest, or 0 if it has
      none.
    flip: whether to mirror half of the images horizontally. The choice depends
      on the record.
    shuffle: whether to use a new order in every epoch; False reads records in
      stored order.
    shuffle_files: number of shards that are shuffled together. 0 uses all
      shards if their index fits in memory, otherwise as many as fit
      (`data.order`).
    cache_gb: GB of this machine's disk for copies of the shards of a bucket
      (`data.shard_cache`). 0 uses half of the free disk.
    fake_labels: labels of generated images: `uniform` over the classes, or
      `empirical`, the labels of the reals in the same batch. Losses that pair
      reals with fakes always use `empirical`.
    bad_records: what to do about a record that cannot be read: `skip`
      substitutes another record, `error` stops the run.
    max_bad_fraction: largest fraction of a source's records that may be bad, in
      [0, 1]. The run stops if more are bad.
    prefetch: number of batches to read ahead of the training step, at least 1.
    threads: number of threads that read and decode. 0 uses one thread for
      uncompressed pixels, where two threads would compete for Python's global
      interpreter lock (GIL), and two threads otherwise. Remote storage benefits
      from more.
    workers: number of processes that read and decode; 0 uses threads instead.
      Use processes if the threads of one process decode too slowly because they
      compete for the GIL. Linux only.
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
  cache_gb: float = 0.0
  fake_labels: Literal["uniform", "empirical"] = "uniform"
  bad_records: Literal["skip", "error"] = "skip"
  max_bad_fraction: float = 0.001
  prefetch: int = 2
  threads: int = 0
  workers: int = 0

  def __post_init__(self) -> None:
    require(
      bool(self.source) != bool(self.mixture),
      f"data.source={self.source!r} and data.mixture with {len(self.mixture)} "
      "sources: set exactly one of the two",
    )
    for name in ("prefetch", "threads", "workers", "shuffle_files"):
      value, least = getattr(self, name), int(name == "prefetch")
      require(value >= least, f"data.{name}={value} must be {least} or more")
      require(
        name == "shuffle_files" or value <= MAX_PARALLEL,
        f"data.{name}={value} must be at most {MAX_PARALLEL:,}",
      )
    require(
      0 <= self.cache_gb < math.inf,
      f"data.cache_gb={self.cache_gb} must be 0 or more, and finite",
    )
    require(
      0 <= self.max_bad_fraction <= 1,
      f"data.max_bad_fraction={self.max_bad_fraction} must lie in [0, 1]",
    )
    require(
      not (self.threads and self.workers),
      f"data.threads={self.threads} and data.workers={self.workers} cannot "
      "both be set, because either threads or processes read; set one to 0",
    )
    _check_subset(self.subset, self.classes)
    _check_padding(self.padding)
    if self.mixture:
      self._check_mixture()
    else:
      require(
        self.temperature == 0,
        f"data.temperature={self.temperature} needs a mixture of sources; set "
        "data.mixture, or set data.temperature to 0",
      )

  @property
  def sources(self) -> tuple[str, ...]:
    """Names of all sources, in order."""
    return tuple(part.source for part in self.mixture or (self,))

  def with_sources(self, sources: Sequence[str]) -> "DataSpec":
    """Returns this spec with its sources replaced, one for one."""
    if not self.mixture:
      return dataclasses.replace(self, source=sources[0])
    parts = zip(self.mixture, sources, strict=True)
    mixture = tuple(dataclasses.replace(p, source=s) for p, s in parts)
    return dataclasses.replace(self, mixture=mixture)

  def at(self, places: Sequence[str]) -> "DataSpec":
    """Returns this spec with its sources moved; class names do not change.

    Args:
      places: `PATH` for each source in order, or `OLD=NEW` for each source that
        has moved; () moves none.

    Raises:
      SpecError: the number of places differs from the number of sources, or a
        place is empty.
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
      f"--data={listed[0] if listed else ''} is one of {len(places)} paths, "
      f"but the run reads {len(self.sources)} sources "
      f"({', '.join(map(repr, self.sources))}); pass one --data=PATH for each, "
      "in this order, or --data=OLD=NEW for those that have moved",
    )
    sources = listed or [named.get(old, old) for old in self.sources]
    require(all(sources), "--data has an empty path; pass --data=PATH")
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
      "data.subset, data.classes and data.padding do not apply to a mixture; "
      "set them for each source in data.mixture",
    )
    require(
      self.temperature >= 0,
      f"data.temperature={self.temperature} must be positive, or 0 to use the "
      "shares in data.mixture",
    )
    shares = [part.share for part in self.mixture]
    if self.temperature:
      require(
        not any(shares),
        f"data.temperature={self.temperature} determines the shares of the "
        f"mixture; remove share={max(shares)}, or set data.temperature to 0",
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
    f"data.padding={padding} must be 0 to {MOST_PADDING} pixels, or None to "
    "use the data set's manifest",
  )


def _check_subset(subset: int, classes: int) -> None:
  require(subset >= 0, f"data.subset={subset} must be 0 or more images")
  require(classes >= 0, f"data.classes={classes} must be 0 or more classes")
