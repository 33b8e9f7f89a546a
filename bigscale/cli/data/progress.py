"""The progress bar of `data build` and `data verify`."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
  """Shows a bar on a terminal, or prints a line every 30 s to a log file.

  Yields:
    A function to call with the number of finished images and the total.
  """
  from tqdm import tqdm

  pause = 0.1 if sys.stderr.isatty() else 30.0
  with tqdm(
    unit=" images", mininterval=pause, delay=pause, dynamic_ncols=True
  ) as bar:

    def progress(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    yield progress
