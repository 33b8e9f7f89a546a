"""The JobSet of launch/gke.sh against its schema, and mutations of it."""

import copy
import json

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models

from tests.launch.launching import (
  AWKWARD,
  environ,
  kubernetes_reads,
  launch,
  program,
  recorded,
  recorder,
  write_env,
)

# Fields that the validators do not require: they treat a JobSet's missing
# fields as empty, or use defaults that would make another job.
REQUIRED = (
  "apiVersion",
  "kind",
  "metadata.name",
  "spec.replicatedJobs",
  "spec.failurePolicy.maxRestarts",
  "spec.failurePolicy.rules.0.name",
  "spec.failurePolicy.rules.0.action",
  "spec.failurePolicy.rules.0.onJobFailureReasons",
  "spec.replicatedJobs.0.name",
  "spec.replicatedJobs.0.replicas",
  "JOB.parallelism",
  "JOB.completions",
  "JOB.completionMode",
  "JOB.backoffLimit",
  "JOB.podFailurePolicy",
  "POD.restartPolicy",
  "POD.terminationGracePeriodSeconds",
  "POD.nodeSelector",
  "POD.containers",
  "POD.containers.0.image",
  "POD.containers.0.command",
  "POD.containers.0.resources.limits",
)
JOB = "spec.replicatedJobs.0.template.spec"
POD = f"{JOB}.template.spec"


def rendered(tmp_path, **values):
  done = launch("gke.sh", f"--env={write_env(tmp_path / 'e', values)}", "yaml")
  assert done.returncode == 0, done.stderr
  return yaml.safe_load(done.stdout)


def place(document, path):
  """Returns the innermost container and the key of a dotted path."""
  keys = path.replace("JOB", JOB).replace("POD", POD).split(".")
  keys = [int(key) if key.isdecimal() else key for key in keys]
  for key in keys[:-1]:
    document = document[key]
  return document, keys[-1]


def get(document, path):
  inner, key = place(document, path)
  return inner[key]


def kept(given, read):
  """Returns whether `read`, which has added defaults, contains `given`."""
  if isinstance(given, dict):
    return isinstance(read, dict) and all(
      key in read and kept(value, read[key]) for key, value in given.items()
    )
  if isinstance(given, list):
    return (
      isinstance(read, list)
      and len(given) == len(read)
      and all(map(kept, given, read))
    )
  return given == read


def check(jobset):
  """Raises if the JobSet is invalid."""
  for path in REQUIRED:
    try:
      get(jobset, path)
    except (KeyError, IndexError, TypeError):
      raise ValueError(f"{path} is missing") from None
  # Wrong types and missing fields raise; unknown names are dropped.
  read = models.JobsetV1alpha2JobSet.from_dict(copy.deepcopy(jobset))
  if not kept(jobset, json.loads(read.to_json())):
    raise ValueError("fields were dropped that the schema does not know")
  if jobset["apiVersion"] != "jobset.x-k8s.io/v1alpha2":
    raise ValueError("apiVersion")
  for job in jobset["spec"]["replicatedJobs"]:
    kubernetes_validate.validate(
      {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job["name"]},
        "spec": job["template"]["spec"],
      },
      "1.32",
      strict=True,
    )


@pytest.mark.parametrize(
  "values",
  [
    {},
    {"NUM_SLICES": "4", "CAPACITY": "on-demand"},
    {"CAPACITY": "reserved", "RESERVATION": "a-reservation"},
    {
      "SERVICE_ACCOUNT": "trainer",
      "VOLUME_CLAIM": "runs",
      "QUEUE": "a-queue",
      "RUN_ENV": ["A=1", "B="],
    },
  ],
)
def test_the_jobset_is_valid(values, tmp_path):
  check(rendered(tmp_path, **values))


RENAMED = (
  "spec.failurePolicy.maxRestarts",
  "spec.failurePolicy.restartStrategy",
  "spec.failurePolicy.rules.0.onJobFailureReasons",
  "spec.network.publishNotReadyAddresses",
  "spec.replicatedJobs.0.replicas",
  "JOB.backoffLimit",
  "JOB.podFailurePolicy",
  "JOB.podFailurePolicy.rules.1.onExitCodes",
  "JOB.podFailurePolicy.rules.1.onExitCodes.containerName",
  "POD.restartPolicy",
  "POD.terminationGracePeriodSeconds",
  "POD.hostNetwork",
  "POD.nodeSelector",
  "POD.tolerations.0.operator",
  "POD.containers.0.workingDir",
  "POD.containers.0.resources.limits",
  "POD.containers.0.ports.0.containerPort",
)
RETYPED = {
  "spec.failurePolicy.maxRestarts": "100",
  "spec.replicatedJobs": {},
  "spec.replicatedJobs.0.replicas": "1",
  "JOB.parallelism": "4",
  "JOB.podFailurePolicy.rules.1.onExitCodes.values": ["75", "76"],
  "JOB.podFailurePolicy.rules.0.onPodConditions.0.status": True,
  "POD.terminationGracePeriodSeconds": "300",
  "POD.hostNetwork": "true",
  "POD.containers.0.command": "bigscale train",
  "POD.containers.0.ports.0.containerPort": "8471",
  "POD.nodeSelector": ["a"],
}
REMOVED = (
  *REQUIRED,
  "spec.replicatedJobs.0.template",
  "JOB.template",
  "JOB.podFailurePolicy.rules.1.action",
  "JOB.podFailurePolicy.rules.1.onExitCodes.operator",
  "JOB.podFailurePolicy.rules.1.onExitCodes.values",
  "JOB.podFailurePolicy.rules.0.onPodConditions.0.type",
  "POD.containers.0.name",
  "POD.containers.0.ports.0.containerPort",
)


def test_mutations_are_caught(tmp_path):
  good = rendered(tmp_path)
  check(good)

  def mutations():
    for path in RENAMED:
      bad = copy.deepcopy(good)
      inner, key = place(bad, path)
      inner[f"{key}s"] = inner.pop(key)
      yield f"typo in {path}", bad
    for path, value in RETYPED.items():
      bad = copy.deepcopy(good)
      inner, key = place(bad, path)
      inner[key] = value
      yield f"type of {path}", bad
    for path in REMOVED:
      bad = copy.deepcopy(good)
      inner, key = place(bad, path)
      del inner[key]
      yield f"without {path}", bad

  missed = []
  for what, bad in mutations():
    try:
      check(bad)
    except (ValueError, kubernetes_validate.ValidationError):
      continue
    missed.append(what)
  assert missed == []


def test_failure_policy(tmp_path):
  jobset = rendered(tmp_path, MAX_RESTARTS="7", GRACE_SECONDS="250")
  assert get(jobset, "spec.failurePolicy.maxRestarts") == 7
  (rule,) = get(jobset, "spec.failurePolicy.rules")
  assert (rule["action"], rule["onJobFailureReasons"]) == (
    "FailJobSet",
    ["PodFailurePolicy"],
  )
  disrupted, exited = get(jobset, "JOB.podFailurePolicy.rules")
  # The first matching rule applies.
  assert disrupted == {
    "action": "Count",
    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
  }
  (container,) = get(jobset, "POD.containers")
  assert exited == {
    "action": "FailJob",
    "onExitCodes": {
      "containerName": container["name"],
      "operator": "NotIn",
      "values": [75, 76],
    },
  }
  assert get(jobset, "JOB.backoffLimit") == 0
  assert get(jobset, "POD.restartPolicy") == "Never"
  assert get(jobset, "POD.terminationGracePeriodSeconds") == 250


def test_volume(tmp_path):
  pod = get(
    rendered(tmp_path, VOLUME_CLAIM="runs", VOLUME_PATH="/mnt/x"), "POD"
  )
  (volume,) = pod["volumes"]
  assert volume["persistentVolumeClaim"] == {"claimName": "runs"}
  (mount,) = pod["containers"][0]["volumeMounts"]
  assert mount == {"name": volume["name"], "mountPath": "/mnt/x"}
  assert "volumes" not in get(rendered(tmp_path), "POD")


def test_slices(tmp_path):
  jobset = rendered(
    tmp_path,
    NUM_SLICES="3",
    GKE_TOPOLOGY="2x2x4",
    PODS_PER_SLICE="4",
    CHIPS_PER_POD="4",
  )
  (job,) = get(jobset, "spec.replicatedJobs")
  assert job["replicas"] == 3
  assert get(jobset, "JOB.parallelism") == get(jobset, "JOB.completions") == 4
  assert get(jobset, "POD.containers.0.resources.limits") == {
    "google.com/tpu": 4
  }
  selector = get(jobset, "POD.nodeSelector")
  assert selector["cloud.google.com/gke-tpu-topology"] == "2x2x4"
  assert selector["cloud.google.com/gke-spot"] == "true"


def test_awkward_values_reach_the_container(tmp_path):
  values = {
    "WORKDIR": AWKWARD[0],
    "TRAIN_ARGS": [*AWKWARD, "two\nlines", "- a: &b"],
    "RUN_ENV": [f"A={AWKWARD[3]}", "B=x=y\n"],
    "IMAGE_CODE_DIR": '/a "dir"',
    "QUEUE": "yes",
  }
  # gke.sh also prints the XPK command, which must have no line breaks.
  env_file = write_env(tmp_path / "e", values)
  done = launch("gke.sh", f"--env={env_file}", "yaml")
  assert done.returncode == 0, done.stderr
  jobset = yaml.safe_load(done.stdout)
  check(jobset)
  (container,) = get(jobset, "POD.containers")
  assert [kubernetes_reads(word) for word in container["command"]] == [
    *("bigscale", "train", "--config=configs/biggan_imagenet128.py"),
    *(
      f"--workdir={AWKWARD[0]}",
      "--local_processes=1",
      *AWKWARD,
      "two\nlines",
      "- a: &b",
    ),
  ]
  assert {
    e["name"]: kubernetes_reads(e["value"]) for e in container["env"]
  } == {
    "A": AWKWARD[3],
    "B": "x=y\n",
  }
  assert container["workingDir"] == '/a "dir"'
  # YAML would read this word as a boolean without quotes.
  assert jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "yes"}


def test_create_passes_the_jobset_to_kubectl(tmp_path):
  record, given = tmp_path / "record", tmp_path / "given"
  recorder(tmp_path / "bin" / "kubectl", record, then=f"cat >'{given}'")
  env_file = write_env(tmp_path / "e", {"TRAIN_ARGS": AWKWARD})
  arguments = ["gke.sh", f"--env={env_file}"]
  env = environ(tmp_path / "bin")
  assert launch(*arguments, "--go", "create", env=env).returncode == 0
  where = ["--context=gke_a-project_us-central2_a-cluster"]
  where += ["--namespace=default"]
  assert recorded(record) == [["kubectl", *where, "create", "--filename=-"]]
  assert given.read_text() == launch(*arguments, "yaml").stdout
  # The command of the dry run does the same.
  shown = launch(*arguments, "create").stdout
  given.unlink()
  program(tmp_path / "shown", shown)
  assert launch(str(tmp_path / "shown"), env=env).returncode == 0
  assert given.read_text() == launch(*arguments, "yaml").stdout
