"""An address that `etils.epath` opens: bucket://NAME, which is in a folder."""

import os
import sys

from etils import epath


def register(folder, monkeypatch):
  """Makes bucket://NAME the NAME in a folder, as other schemes are."""

  def local(parts):
    return [os.fspath(p).replace("bucket:/", str(folder), 1) for p in parts]

  class Bucket(type(epath.Path("."))):
    # Python 3.12 initializes paths where 3.11 made them ready at once.
    if sys.version_info < (3, 12):

      def __new__(cls, *parts):
        return super().__new__(cls, *local(parts))

    else:

      def __init__(self, *parts):
        super().__init__(*local(parts))

  schemes = epath.register._URI_PREFIXES_TO_CLS
  monkeypatch.setitem(schemes, "bucket://", Bucket)
