"""Detection of the processes of a run from environment variables."""

import pytest
from jax._src.clusters import cloud_tpu_cluster, slurm_cluster

from bigscale.parallel.cluster import SINGLE, Cluster, detect
from bigscale.spec import SpecError

EXPLICIT = {
  "BIGSCALE_COORDINATOR": "10.0.0.2:8476",
  "BIGSCALE_NUM_PROCESSES": "4",
  "BIGSCALE_PROCESS_ID": "3",
}
SLURM = {
  "SLURM_JOB_ID": "70001",
  "SLURM_STEP_NODELIST": "node[007-009,012],other1",
  "SLURM_NTASKS": "5",
  "SLURM_STEP_NUM_TASKS": "5",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
}
GKE = {
  "TPU_ML_PLATFORM": "JAX",
  "TPU_WORKER_ID": "1",
  "TPU_WORKER_HOSTNAMES": "job-0-0.job,job-0-1.job",
}
GKE_SLICES = GKE | {
  "MEGASCALE_NUM_SLICES": "3",
  "MEGASCALE_SLICE_ID": "2",
  "MEGASCALE_COORDINATOR_ADDRESS": "job-0-0.job:8080",
}
CLOUD_TPU = {"TPU_ML_PLATFORM": "JAX"}


def without(environ, name):
  return {key: value for key, value in environ.items() if key != name}


@pytest.mark.parametrize(
  ("environ", "cluster"),
  [
    ({}, SINGLE),
    (EXPLICIT, Cluster("explicit", "10.0.0.2:8476", 4, 3)),
    ({"BIGSCALE_NUM_PROCESSES": "1"} | SLURM, SINGLE),
    (EXPLICIT | SLURM, Cluster("explicit", "10.0.0.2:8476", 4, 3)),
    (SLURM, Cluster("slurm", "node007:61809", 5, 2)),
    (
      SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
      SINGLE,
    ),
    # A batch script that runs bigscale without srun.
    (without(SLURM, "SLURM_STEP_NODELIST"), SINGLE),
    (GKE, Cluster("gke", "job-0-0.job:8482", 2, 1)),
    (GKE_SLICES, Cluster("gke", "job-0-0.job:8482", 6, 5)),
    (
      GKE | {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"},
      SINGLE,
    ),
    (
      GKE_SLICES | {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"},
      Cluster("gke", "job-0-0.job:8482", 3, 2),
    ),
    (GKE | {"JAX_PLATFORMS": "cpu"}, SINGLE),
    ({"TPU_WORKER_HOSTNAMES": "WARNING: no hosts, none"}, SINGLE),
    (CLOUD_TPU, Cluster("cloud_tpu", None, None, None)),
    (CLOUD_TPU | {"JAX_PLATFORMS": "cpu"}, SINGLE),
    (CLOUD_TPU | {"TPU_SKIP_MDS_QUERY": "1"}, SINGLE),
  ],
)
def test_environments(environ, cluster):
  assert detect(environ) == cluster


def test_flags_override_variables():
  flags = {"coordinator": "h:1", "num_processes": 2, "process_id": 0}
  assert detect(EXPLICIT, **flags) == Cluster("explicit", "h:1", 2, 0)
  assert detect(EXPLICIT, process_id=0).process_id == 0
  assert detect(SLURM, num_processes=1) == SINGLE


@pytest.mark.parametrize(
  ("environ", "words"),
  [
    (without(EXPLICIT, "BIGSCALE_PROCESS_ID"), "BIGSCALE_PROCESS_ID is not"),
    (without(EXPLICIT, "BIGSCALE_COORDINATOR"), "BIGSCALE_COORDINATOR is not"),
    (
      without(EXPLICIT, "BIGSCALE_NUM_PROCESSES"),
      "BIGSCALE_NUM_PROCESSES is not",
    ),
    (
      EXPLICIT | {"BIGSCALE_PROCESS_ID": "4"},
      "BIGSCALE_PROCESS_ID=4 must be a whole number from 0 to 3",
    ),
    (
      EXPLICIT | {"BIGSCALE_NUM_PROCESSES": "two"},
      "BIGSCALE_NUM_PROCESSES=two must be a whole number from 1",
    ),
    (
      EXPLICIT | {"BIGSCALE_COORDINATOR": "10.0.0.2"},
      "BIGSCALE_COORDINATOR=10.0.0.2 must be HOST:PORT",
    ),
    (
      EXPLICIT | {"BIGSCALE_COORDINATOR": "10.0.0.2:99999"},
      "must be HOST:PORT",
    ),
    (SLURM | {"SLURM_PROCID": "5"}, "SLURM_PROCID=5 .* from 0 to 4"),
    (
      SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
      "SLURM_NTASKS=5 contradicts SLURM_STEP_NUM_TASKS=1",
    ),
    (SLURM | {"SLURM_STEP_NODELIST": ""}, "contains no node"),
    (GKE | {"TPU_WORKER_ID": "2"}, "TPU_WORKER_ID=2 .* from 0 to 1"),
    (without(GKE, "TPU_WORKER_ID"), "TPU_WORKER_ID is not set"),
    (GKE_SLICES | {"MEGASCALE_SLICE_ID": "3"}, "MEGASCALE_SLICE_ID=3"),
    (
      without(GKE_SLICES, "MEGASCALE_COORDINATOR_ADDRESS"),
      "MEGASCALE_COORDINATOR_ADDRESS is not set",
    ),
    (SLURM | GKE, "SLURM variables and Kubernetes variables both"),
  ],
)
def test_contradictions(environ, words):
  with pytest.raises(SpecError, match=words) as refusal:
    detect(environ)
  if "COORDINATOR=" not in words and "HOST" not in words:
    assert "BIGSCALE_NUM_PROCESSES=1" in str(refusal.value)


@pytest.mark.parametrize(
  "nodes", ["n1", "n1,n2", "n[01-16],m3", "n[01,07-15]", "10.0.0.3"]
)
@pytest.mark.parametrize("port", [None, "9000"])
def test_slurm_as_jax_reads_it(monkeypatch, nodes, port):
  """The port that is checked must be the port that JAX uses."""
  environ = SLURM | {"SLURM_STEP_NODELIST": nodes}
  environ |= {"JAX_COORDINATOR_PORT": port} if port else {}
  for name, value in environ.items():
    monkeypatch.setenv(name, value)
  theirs = slurm_cluster.SlurmCluster
  assert detect(environ) == Cluster(
    "slurm",
    theirs.get_coordinator_address(1, port),
    theirs.get_process_count(),
    theirs.get_process_id(),
  )


@pytest.mark.parametrize("environ", [GKE, GKE_SLICES])
def test_kubernetes_as_jax_reads_it(monkeypatch, environ):
  theirs = cloud_tpu_cluster.GkeTpuCluster
  monkeypatch.setattr(theirs, "wait_for_coordinator", lambda *_: None)
  # JAX would ask a metadata server for values missing from the environment.
  monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda _: ("", 200))
  for name, value in environ.items():
    monkeypatch.setenv(name, value)
  assert detect(environ) == Cluster(
    "gke",
    theirs.get_coordinator_address(1, None),
    theirs.get_process_count(),
    theirs.get_process_id(),
  )
