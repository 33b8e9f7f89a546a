"""Registers bucket://NAME with `etils.epath` as a path in a local folder."""

import os
import sys

from etils import epath


def register(folder, monkeypatch):
  """Maps bucket://NAME to NAME in a folder, like other URI schemes."""

  def local(parts):
    return [os.fspath(p).replace("bucket:/", str(folder), 1) for p in parts]

  class Bucket(type(epath.Path("."))):
    # Before Python 3.12, paths are initialized in __new__.
    if sys.version_info < (3, 12):

      def __new__(cls, *parts):
        return super().__new__(cls, *local(parts))

    else:

      def __init__(self, *parts):
        super().__init__(*local(parts))

  schemes = epath.register._URI_PREFIXES_TO_CLS
  monkeypatch.setitem(schemes, "bucket://", Bucket)
