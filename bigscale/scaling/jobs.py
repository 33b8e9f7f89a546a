"""Writes the runs of a sweep as cluster jobs for the scripts in launch/.

Each job has a config file and an env file. It writes to the same folder as the
sweep command would, so `bigscale scaling sweep --collect` finds its results.
"""

import pathlib
import pprint
import re
import shlex
import zlib
from collections.abc import Iterable

from etils import epath

from bigscale.place import is_remote
from bigscale.scaling.folders import folder_of
from bigscale.scaling.sweep import SweepRun
from bigscale.spec import require, to_json
from bigscale.train.folder import write_whole

_CONFIG = """\
\"\"\"Run {name} of a sweep.

  bigscale train --config={config} --workdir={workdir}
\"\"\"

from ml_collections import ConfigDict

SETTINGS = {settings}


def get_config():
  \"\"\"Returns all settings of the run.\"\"\"
  return ConfigDict(SETTINGS)
"""
_ENV = """\
# Run {name} of a sweep, for launch/*.sh --env=THIS
source {base}
RUN_NAME={job}
CONFIG={config}
WORKDIR={workdir}
"""


def write_jobs(
  out: epath.Path, runs: Iterable[SweepRun], base: pathlib.Path
) -> list[pathlib.Path]:
  """Writes OUT/jobs/NAME.py and OUT/jobs/NAME.env for every run.

  Args:
    out: folder of the sweep, shared by the machines of the cluster.
    runs: runs of the sweep.
    base: env file with the settings shared by all runs; see launch/example.env.

  Returns:
    Paths of the env files.

  Raises:
    SpecError: `base` is not a file.
  """
  require(
    base.is_file(),
    f"--jobs={base} is not a file; copy launch/example.env and fill it in",
  )
  require(
    not is_remote(out),
    f"--out={out} is on a bucket, and --jobs writes configs that machines read "
    "from a shared disk; use a folder on it, or train without --jobs",
  )
  out = out.absolute()
  written = []
  for run in runs:
    workdir = folder_of(out, run)
    config = out / "jobs" / f"{workdir.name}.py"
    paths = {"config": config, "workdir": workdir}
    quoted = {key: shlex.quote(str(path)) for key, path in paths.items()}
    settings = pprint.pformat(to_json(run.spec), sort_dicts=False, width=78)
    write_whole(
      config, _CONFIG.format(name=run.name, settings=settings, **quoted)
    )
    env = config.with_name(f"{workdir.name}.env")
    quoted["base"] = shlex.quote(str(base.absolute()))
    text = _ENV.format(name=run.name, job=job_name(workdir.name), **quoted)
    write_whole(env, text)
    written.append(env)
  return written


def job_name(name: str) -> str:
  """Returns a job name that clusters accept.

  It has at most 40 lowercase letters, digits and hyphens. A checksum keeps
  names distinct after other characters are replaced.
  """
  letters = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
  return f"r-{letters[:29].strip('-')}-{zlib.crc32(name.encode()):08x}"
