"""TorchServe's management API, and the predictions that check a version: one function for each call."""

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import httpx
import psutil

from handler.text import TEXT_HEADER, encode_text
from scripts.errors import SeeFoodError
from scripts.settings import Settings

PING_TIMEOUT_S = 2  # of one attempt while TorchServe starts; many follow
# an answer, up to the end of its body, which is one of JSON
COMPLETE = re.compile(rb"HTTP/1\.[^{]*\r\n\r\n\{[^}]*\}\s*", re.DOTALL)
READ_TIMEOUT_S = 10  # of a call that the front end answers by itself, without a worker: it hangs if it takes longer


class ManagementError(SeeFoodError):
    """TorchServe refused a call, or did not answer it; the message holds its reason. `status` is HTTP's, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def new_client(timeout_s: float = Settings.management_timeout_s, *addresses: str) -> httpx.Client:
    """A client for many calls: to these addresses, http://host:port or unix:PATH; without any, to all that are not unix:PATH.

    One is kept, as it takes 20 ms to read certificates. Where none of its addresses has HTTPS it reads none.
    """
    sockets = {url_of(address): address.removeprefix("unix:") for address in addresses if address.startswith("unix:")}
    # loopback needs no proxy, whatever the environment names
    mounts = {url: httpx.HTTPTransport(uds=path, verify=False) for url, path in sockets.items()}
    needs_certificates = not addresses or any(address.startswith("https:") for address in addresses)
    return httpx.Client(timeout=timeout_s, trust_env=False, mounts=mounts, verify=needs_certificates)


def url_of(address: str) -> str:
    """What a client calls a server by: its address, or for unix:PATH the path's last part as a host."""
    return f"http://{PurePath(address).name}" if address.startswith("unix:") else address


class Workers(NamedTuple):
    """How many workers a version keeps."""

    least: int
    most: int

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """From TorchServe's description of the version."""
        return cls(described["minWorkers"], described["maxWorkers"])


@dataclass(frozen=True)
class Server:
    """Where one TorchServe is: its addresses, http://host:port or unix:PATH, and its tokens if it needs them.

    The client has to be made for an address unix:PATH (new_client).
    `probe_token` is known to its workers and to us alone: requests that carry it are left out of metrics and captures.
    """

    management: str
    inference: str
    management_token: str | None = None
    inference_token: str | None = None
    probe_token: str | None = field(default=None, repr=False)
    client: httpx.Client = field(default_factory=new_client, compare=False)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The management API's answer, from JSON. Raises ManagementError."""
        headers = {"authorization": f"Bearer {self.management_token}"} if self.management_token else {}
        if method == "GET":
            options = {"timeout": READ_TIMEOUT_S, **options}
        try:
            response = self.client.request(method, url_of(self.management) + path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise ManagementError(f"{method} {path}: {error or type(error).__name__}") from error
        try:
            body = response.json()
        except ValueError:  # errors of netty itself are plain text
            body = {"message": response.text}
        if response.is_error:
            raise ManagementError(f"{method} {path}: {response.status_code} {body.get('message')}", response.status_code)
        return body

    def predict(self, path: str, photo: bytes, top_k: int, timeout_s: float, text: str = "") -> httpx.Response:
        """The answer of /predictions/<path> to a photo, or a text; the probe token keeps it out of the metrics. httpx.HTTPError."""
        headers = {"x-top-k": str(top_k), "content-type": "application/octet-stream"}
        if text:
            headers[TEXT_HEADER] = encode_text(text)
        if self.probe_token:
            headers["x-probe"] = self.probe_token
        if self.inference_token:
            headers["authorization"] = f"Bearer {self.inference_token}"
        return self.client.post(f"{url_of(self.inference)}/predictions/{path}", content=photo, headers=headers, timeout=timeout_s)


def register(server: Server, model: str, url: str) -> None:
    """Start loading the archive `url`, a name in its model store; returns at once. Raises ManagementError.

    Not synchronous: such a call blocks one of the front end's threads, and with it the predictions that the thread serves.
    """
    server.call("POST", "/models", params={"url": url, "model_name": model, "initial_workers": "1", "synchronous": "false"})


def models(server: Server) -> set[str]:
    """The names of all registered models. Raises ManagementError."""
    return {listed["modelName"] for listed in server.call("GET", "/models", params={"limit": "1000"})["models"]}


def versions(server: Server, model: str) -> dict[str, dict[str, Any]]:
    """TorchServe's description of each registered version. Raises ManagementError."""
    # /models/NAME/all is a 404 without any version, which is no error here
    if model not in models(server):
        return {}
    return {described["modelVersion"]: described for described in server.call("GET", f"/models/{model}/all")}


def version(server: Server, model: str, number: str) -> dict[str, Any]:
    """TorchServe's description of one version: "workers", "jobQueueStatus". Raises ManagementError."""
    described: dict[str, Any] = server.call("GET", f"/models/{model}/{number}")[0]
    return described


def default_version(server: Server, model: str) -> str:
    """The version that answers where no version is named. Raises ManagementError."""
    return str(server.call("GET", f"/models/{model}")[0]["modelVersion"])


def describe(server: Server, model: str, number: str, timeout_s: float) -> dict[str, Any]:
    """The description that a version's worker gives, once it is its turn (SeefoodHandler.describe). Raises ManagementError."""
    answer = server.call("GET", f"/models/{model}/{number}", params={"customized": "true"}, timeout=timeout_s)
    described: dict[str, Any] = answer[0]["customizedMetadata"]
    return described


def set_default(server: Server, model: str, number: str) -> None:
    """Make this the version that answers where no version is named. Raises ManagementError."""
    server.call("PUT", f"/models/{model}/{number}/set-default")


def scale(server: Server, model: str, number: str, workers: Workers) -> None:
    """Have a version keep so many workers. Raises ManagementError."""
    params = {"min_worker": str(workers.least), "max_worker": str(workers.most)}
    server.call("PUT", f"/models/{model}/{number}", params=params)


def restart_workers(server: Server, model: str, number: str, workers: Workers, pids: Iterable[int]) -> None:
    """End a version's worker processes, and start new ones for what is queued. Raises ManagementError."""
    for pid in pids:
        # TorchServe ends a worker by SIGTERM, which a stopped process does not get
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    # scaled down, for the front end's thread of a worker may be dead though its worker lives: "READY", and no batch goes out
    scale(server, model, number, Workers(0, 0))
    scale(server, model, number, workers)


def unregister(server: Server, model: str, number: str) -> None:
    """End a version's workers. Drain it first: TorchServe never answers the requests they still hold. Raises ManagementError."""
    server.call("DELETE", f"/models/{model}/{number}")


def responds(server: Server) -> bool:
    """Whether the management API answers at all."""
    address = server.management
    if address.startswith("unix:") and not Path(address.removeprefix("unix:")).exists():
        return False  # of a socket that is not there yet, httpx would leave its own end open
    try:
        return server.client.get(f"{url_of(server.management)}/models", timeout=PING_TIMEOUT_S).is_success
    except httpx.HTTPError:
        return False


def answers(address: str, path: str, timeout_s: float) -> bool:
    """Whether a server gives any answer of JSON to a GET, on a new connection, within that time in all.

    At http://host:port, https://host:port (whatever its certificate), or unix:PATH.
    """
    deadline = time.monotonic() + timeout_s
    try:
        # not httpx: its time-outs are those of each read, and a connection that it keeps does not show that new ones are taken
        with _connect(address, timeout_s) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            # to its end: TorchServe logs each connection that is closed before
            while not COMPLETE.match(answer):
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                received = connection.recv(4096)
                if not received or time.monotonic() > deadline:
                    return False
                answer += received
            return True
    except OSError:
        return False


def _connect(address: str, timeout_s: float) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(address.removeprefix("unix:"))
        except BaseException:
            connection.close()
            raise
        return connection
    url = urlsplit(address)
    connection = socket.create_connection((url.hostname or "", url.port or 80), timeout_s)
    if url.scheme != "https":
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)
