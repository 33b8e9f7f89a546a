"""A sweep for a cluster: each run as a config file and an env file of launch/.

Runs of jobs land where the sweep itself would have put them, so that
`bigscale scaling sweep --collect` finds them.
"""

import pathlib
import pprint
import re
import shlex
import zlib
from collections.abc import Iterable

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
  \"\"\"All settings of the run, as the sweep resolved them.\"\"\"
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
  out: pathlib.Path, runs: Iterable[SweepRun], base: pathlib.Path
) -> list[pathlib.Path]:
  """Writes OUT/jobs/NAME.py and OUT/jobs/NAME.env of every run.

  Args:
    out: folder of the sweep, which the machines of the cluster share.
    runs: of it.
    base: env file with what the runs have in common; see launch/example.env.

  Returns:
    The env files.

  Raises:
    SpecError: `base` is no file.
  """
  require(
    base.is_file(),
    f"--jobs={base} is no file; copy launch/example.env and fill it in",
  )
  out = out.absolute()
  written = []
  for run in runs:
    workdir = folder_of(out, run)
    config = out / "jobs" / f"{workdir.name}.py"
    paths = {"config": config, "workdir": workdir}
    words = {key: shlex.quote(str(path)) for key, path in paths.items()}
    settings = pprint.pformat(to_json(run.spec), sort_dicts=False, width=78)
    write_whole(
      config, _CONFIG.format(name=run.name, settings=settings, **words)
    )
    env = config.with_name(f"{workdir.name}.env")
    words["base"] = shlex.quote(str(base.absolute()))
    text = _ENV.format(name=run.name, job=job_name(workdir.name), **words)
    write_whole(env, text)
    written.append(env)
  return written


def job_name(name: str) -> str:
  """A name of at most 40 small letters, digits and hyphens, for clusters.

  They allow no more. A checksum keeps names apart that would read alike.
  """
  letters = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
  return f"r-{letters[:29].strip('-')}-{zlib.crc32(name.encode()):08x}"
