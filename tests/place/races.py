"""Races of many claimants for one folder on a bucket.

  python -m tests.place.races --races=30 --rivals=16

Prints the number of winners of each race, which must be 1.
"""

import argparse
import os
import pathlib
import sys
import tempfile

from tests.place import servers
from tests.train.test_lease import winners_of_races


def main() -> None:
  """See the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--store", choices=("gs", "s3"), default="gs")
  parser.add_argument("--races", type=int, default=30)
  parser.add_argument("--rivals", type=int, default=16)
  asked = parser.parse_args()
  with (
    tempfile.TemporaryDirectory() as folder,
    servers.running(asked.store, pathlib.Path(folder)) as server,
  ):
    os.environ.update(servers.environment(asked.store, server.endpoint))
    url = f"{asked.store}://{servers.BUCKET}/raced"
    won = winners_of_races(url, asked.races, asked.rivals)
  print(won)
  sys.exit(0 if won == [1] * asked.races else 1)


if __name__ == "__main__":
  main()
