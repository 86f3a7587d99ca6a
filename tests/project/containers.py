"""What the container tests stand on: a Docker daemon, if need be one of their own, a base image, and our image built."""

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LIMIT_S, ROOT
from tests.waiting import until

BASE = "debian:bookworm-slim"
# where a private daemon is started, its network needs nothing of the machine's firewall
OWN_DAEMON = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")


class Docker:
    """A client, and the environment that leads it to its daemon."""

    def __init__(self, client: str, environment: dict[str, str]) -> None:
        self.client, self.environment = client, {**os.environ, **environment, "DOCKER_BUILDKIT": "1"}

    def __call__(self, *arguments: object, check: bool = True) -> str:
        """Run a command; its output, both streams."""
        return self.run(self.client, *arguments, check=check)[1]

    def run(self, *command: object, check: bool = True) -> tuple[int, str]:
        """Run any command that talks to the daemon; its exit status and output."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}"
        return done.returncode, done.stdout.replace("WARNING: IPv4 forwarding is disabled. Networking will not work.\n", "")


@contextlib.contextmanager
def docker_daemon(folder: Path) -> Iterator[Docker]:
    """The machine's own daemon, else one that is started in `folder`. Skips where neither can be."""
    # Debian's client brings BuildKit with it; another one that comes first on the PATH may not
    client = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker")
    if client is None:
        pytest.skip("no docker here")
    docker = Docker(client, {})
    if docker.run(client, "info", check=False)[0] == 0:
        yield docker
        return
    daemon = shutil.which("dockerd")
    if os.geteuid() != 0 or daemon is None:
        pytest.skip("no Docker daemon runs here, and starting one needs root and dockerd (Debian: docker.io)")
    folder.mkdir()
    had_bridge = Path("/sys/class/net/docker0").exists()
    address = f"unix://{folder}/sock"
    places = ("--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid", "--host", address)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(list(map(str, [daemon, *places, *OWN_DAEMON])), stdout=log, stderr=log, start_new_session=True)
    docker = Docker(client, {"DOCKER_HOST": address})
    try:
        try:
            until(lambda: docker.run(client, "info", check=False)[0] == 0, process=process)
        except AssertionError:
            pytest.skip(f"dockerd does not start here: {(folder / 'log').read_text()[-500:]}")
        yield docker
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        for mount in sorted((line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()), reverse=True):
            if mount.startswith(str(folder)):
                subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)
        if not had_bridge:
            subprocess.run(["ip", "link", "delete", "docker0"], check=False, capture_output=True)


def need_base_image(docker: Docker) -> None:
    """See that the Dockerfile's base image is there: had, pulled, or made of Debian's packages. Skips where it cannot be."""
    if docker.run(docker.client, "image", "inspect", BASE, check=False)[0] == 0:
        return
    if docker.run(docker.client, "pull", BASE, check=False)[0] == 0:
        return
    bootstrap = shutil.which("mmdebstrap")
    if os.geteuid() != 0 or bootstrap is None:
        pytest.skip(f"{BASE} cannot be pulled, and making it needs root and mmdebstrap")
    folders = 'mkdir -p "$1"/usr/share/man/man1'
    leave_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "info")]
    command = [bootstrap, "--variant=minbase", *leave_out, f"--setup-hook={folders}", "bookworm", "-"]
    shared_memory = {**os.environ, "TMPDIR": "/dev/shm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=shared_memory) as made:
        imported = subprocess.run(
            [docker.client, "import", "-", BASE], stdin=made.stdout, env=docker.environment, capture_output=True, check=False
        )
    if made.returncode != 0 or imported.returncode != 0:
        pytest.skip(f"{BASE} cannot be made here: {imported.stderr.decode()}")


@contextlib.contextmanager
def torch_index(folder: Path) -> Iterator[list[str]]:
    """What `make image` is told where a CPU build of torch lies in pip's own folder of wheels: its version, and an index of it."""
    links = Path(os.environ.get("PIP_FIND_LINKS", "/nowhere"))
    wheel = next(iter(sorted(links.glob("torch-*+cpu*.whl"))), None) if links.is_dir() else None
    if wheel is None:
        yield []
        return
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / wheel.name).symlink_to(wheel)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield [f"TORCH_VERSION={wheel.name.split('-')[1].split('+')[0]}", f"TORCH_INDEX=http://127.0.0.1:{server.server_port}/"]
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
        """Nothing."""


def build_image(docker: Docker, folder: Path, tag: str, secret: str) -> None:
    """The image, those of compose and of the devcontainer, with what this network needs; `secret` stands in a build secret."""
    folder.mkdir()
    (folder / "pip.conf").write_text(f"# {secret}\n")
    flags = ["--network host", f"--secret id=pip_conf,src={folder / 'pip.conf'}"]
    if bundle := os.environ.get("SSL_CERT_FILE"):
        flags.append(f"--secret id=ca_bundle,src={bundle}")
    docker("build", "--network", "host", "--target", "dev", "--tag", f"seefood-dev:{tag}", ".")
    with torch_index(folder / "index") as torch:
        for target in ("image", "tools-image"):
            docker.run("make", target, f"TAG={tag}", f"DOCKER={docker.client}", f"DOCKER_FLAGS={' '.join(flags)}", *torch)
