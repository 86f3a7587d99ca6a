"""`make serve` for tests: a server in a process of its own."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import psutil
import pytest

from scripts.archive.build import build
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.waiting import until

# what a process of the server is known by: a word of its command line
PARTS = {"serve": "scripts.serving.serve", "door": "scripts.door.door", "worker": "model_service_worker"}


def is_front_end(name, words):
    """Whether a process is the server's JVM, and none that makes the archive of its classes in the background."""
    return name == "java" and not any("DumpLoadedClassList" in word or "-Xshare:dump" in word for word in words)


class Server:
    """`scripts/serving/serve.py` in a process of its own, as a user runs it. Its readiness is that of /readyz."""

    def __init__(self, model_store, port, *arguments, model="seefood", before=()):
        """`before` is a command that runs it, such as prlimit."""
        self.port = port
        self.url = f"http://127.0.0.1:{port}/predictions/{model}"
        self.readyz, self.management = f"http://127.0.0.1:{port}/readyz", f"http://127.0.0.1:{port + 1}/models"
        command = [sys.executable, "-m", PARTS["serve"], "--port", str(port), "--model-store", str(model_store), *arguments]
        self.process = subprocess.Popen(
            [*before, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.output += line

    def wait_output(self, text):
        """Return once it has printed this."""
        until(lambda: text in self.output, lambda: self.output, self.process)
        return self

    def wait_ready(self):
        until(lambda: status_of(self.readyz) == 200, lambda: self.output, self.process)
        return self

    def wait(self):
        """Its complete output, once it has ended."""
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return self.output

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def parts(self, name):
        """Its processes of one kind: JVM, worker, door or serve."""
        found = []
        for process in [psutil.Process(self.process.pid), *self.family()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if is_front_end(process.name(), words) if name == "JVM" else any(PARTS[name] in word for word in words):
                    found.append(process)
        return found

    def part(self, name):
        """Its only process of a kind."""
        (process,) = self.parts(name)
        return process

    def end(self, signal_number=signal.SIGTERM):
        """Output and exit status after the signal; no process of the server may be left."""
        family = self.family()
        self.process.send_signal(signal_number)
        self.wait()
        assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]
        return self.output, self.process.returncode


@contextlib.contextmanager
def serving_starter(folder, *arguments) -> Iterator[Server]:
    """The starter, served; its archive lies in `folder`."""
    build(ROOT / "model_store" / "starter", "0.5.0", folder)
    server = Server(folder, free_port(), *arguments).wait_ready()
    try:
        yield server
    finally:
        server.end()


def status_of(url, **options):
    """HTTP's, None if nobody answers."""
    try:
        return httpx.request(url=url, **{"method": "GET", "timeout": 30, **options}).status_code
    except httpx.TransportError:
        return None


@contextlib.contextmanager
def capturing_starter(tmp_path_factory):
    """(server, folder): the starter, which keeps each photo in a folder of its own."""
    folder = tmp_path_factory.mktemp("kept") / "captured"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEFOOD_CAPTURE_SHARE", "1")
        patch.setenv("SEEFOOD_CAPTURE_DIR", str(folder))
        with serving_starter(tmp_path_factory.mktemp("model_store")) as server:
            yield server, folder
