"""An HTTP proxy that delays, loses and damages requests to a store.

Clients are given the proxy's address as the store's. All requests are counted.
"""

import contextlib
import dataclasses
import http.client
import http.server
import random
import threading
import time
import urllib.parse


@dataclasses.dataclass
class Fault:
  """What happens to a request.

  Attributes:
    kind: `status` answers without asking the store, `drop` closes the
      connection without asking it, `lose` closes it after the store did what
      was asked, `cut` sends half of the answer's body, and `hang` waits for
      `seconds` and then closes the connection.
    status: the answer of `status`.
    seconds: the wait of `hang`.
    times: number of requests it happens to.
    method: HTTP method of the requests it happens to; "" means all.
    part: text in the path of the requests it happens to.
  """

  kind: str
  status: int = 503
  seconds: float = 1.0
  times: int = 1
  method: str = ""
  part: str = ""

  def is_for(self, method, path):
    wanted = self.method in ("", method) and self.part in path
    return self.times > 0 and wanted


class Proxy:
  """A running proxy.

  Attributes:
    endpoint: its address.
    delay: seconds added to each request.
    seen: (method, path) of each request so far.
  """

  def __init__(self, target):
    self.delay = 0.0
    self.seen = []
    self._faults = []
    self._share = 0.0
    self._kinds = ()
    self._random = random.Random(0)
    self._lock = threading.Lock()
    self._target = urllib.parse.urlsplit(target).netloc
    self._server = _Server(("127.0.0.1", 0), _Handler)
    self._server.proxy = self
    self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
    self._thread = threading.Thread(
      target=self._server.serve_forever, args=(0.05,), daemon=True
    )
    self._thread.start()

  def add(self, *faults):
    """Lets faults happen to the next requests that they are for."""
    with self._lock:
      self._faults += faults

  def damage(self, share, seed, kinds=("status", "drop", "lose", "cut")):
    """Lets a random fault happen to a share of all requests from now on."""
    with self._lock:
      self._share, self._kinds, self._random = share, kinds, random.Random(seed)

  def clear(self):
    """Ends all faults and forgets the requests."""
    with self._lock:
      self._faults, self._share, self.seen, self.delay = [], 0.0, [], 0.0

  def close(self):
    """Stops the proxy; its address no longer answers."""
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()

  def _take(self, method, path):
    """Counts a request, and returns the fault that happens to it, or None."""
    with self._lock:
      self.seen.append((method, path))
      for fault in self._faults:
        if fault.is_for(method, path):
          fault.times -= 1
          return fault
      if self._share and self._random.random() < self._share:
        kind = self._random.choice(self._kinds)
        return Fault(kind, status=self._random.choice((429, 500, 502, 503)))
    return None


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128

  def handle_error(self, request, client_address):
    """Logs no error, because clients close connections at any time."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  # An answer's header and body are two writes, which Nagle would delay.
  disable_nagle_algorithm = True

  def handle(self):
    self._upstream = None
    try:
      super().handle()
    finally:
      if self._upstream is not None:
        self._upstream.close()

  def _forward(self):
    proxy = self.server.proxy
    body = self._body()
    fault = proxy._take(self.command, self.path)
    kind = fault.kind if fault else ""
    time.sleep(proxy.delay)
    if kind == "hang":
      time.sleep(fault.seconds)
    if kind in ("drop", "hang"):
      self._hang_up()
    elif kind == "status":
      self._answer(fault.status, [], b"injected")
    else:
      status, headers, data = self._ask(body)
      if kind == "lose":
        self._hang_up()
      elif kind == "cut" and len(data) > 1:
        self._answer(status, headers, data[: len(data) // 2], len(data))
        self._hang_up()
      else:
        self._answer(status, headers, data)

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _forward  # noqa: N815

  def _body(self):
    if "chunked" not in self.headers.get("Transfer-Encoding", ""):
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    found = b""
    while size := int(self.rfile.readline().split(b";")[0], 16):
      found += self.rfile.read(size)
      self.rfile.readline()
    while self.rfile.readline().strip():
      pass
    return found

  def _ask(self, body):
    """Returns the status, the headers and the body of the store's answer."""
    headers = {
      name: value
      for name, value in self.headers.items()
      if name.lower() not in ("transfer-encoding", "expect", "content-length")
    }
    if body or self.command in ("PUT", "POST", "PATCH"):
      headers["Content-Length"] = str(len(body))
    for attempt in range(2):
      if self._upstream is None:
        self._upstream = http.client.HTTPConnection(self.server.proxy._target)
      try:
        self._upstream.request(self.command, self.path, body, headers)
        answer = self._upstream.getresponse()
        return answer.status, answer.getheaders(), answer.read()
      except (http.client.HTTPException, OSError):
        # The store may have closed a connection that was not used for long.
        self._upstream.close()
        self._upstream = None
        if attempt:
          return 502, [], b"the store does not answer"
    raise AssertionError

  def _answer(self, status, headers, data, length=None):
    self.send_response_only(status)
    length = len(data) if length is None else length
    for name, value in headers:
      if self.command == "HEAD" and name.lower() == "content-length":
        length = int(value)
      if name.lower() not in ("transfer-encoding", "content-length"):
        self.send_header(name, value)
    if status != 204:
      self.send_header("Content-Length", str(length))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(data)

  def _hang_up(self):
    self.close_connection = True
    with contextlib.suppress(OSError):
      self.connection.shutdown(2)

  def log_message(self, format, *args):
    pass


@contextlib.contextmanager
def between(server):
  """Yields a proxy to a `Server`."""
  proxy = Proxy(server.endpoint)
  try:
    yield proxy
  finally:
    proxy.close()
