"""`make serve` for tests: a server in a process of its own."""

import signal
import subprocess
import sys
import threading
import time

import httpx
import psutil


class Server:
    """`scripts/serving/serve.py` in a process of its own, as a user runs it. Its readiness is that of /readyz."""

    def __init__(self, model_store, port, *arguments, model="seefood"):
        self.port = port
        self.url = f"http://127.0.0.1:{port}/predictions/{model}"
        command = [
            sys.executable,
            "-m",
            "scripts.serving.serve",
            "--port",
            str(port),
            "--model-store",
            str(model_store),
            *arguments,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.output = ""

        self._reader = threading.Thread(target=self._read, daemon=True)

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.output += line

    def wait_output(self, text):
        """Return once it has printed this."""
        self._reader.start()
        while text not in self.output:
            assert self.process.poll() is None, f"the server ended: {self.output}"
            time.sleep(0.05)
        return self

    def wait_ready(self):
        self._reader.start()
        while status_of(f"http://127.0.0.1:{self.port}/readyz") != 200:
            assert self.process.poll() is None, f"the server ended: {self.output}"
            time.sleep(0.1)
        return self

    def wait(self, seconds=60):
        """Its complete output, once it has ended."""
        if self._reader.ident is None:
            self._reader.start()
        self.process.wait(seconds)
        self._reader.join(seconds)
        return self.output

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, signal_number=signal.SIGTERM):
        """Output and exit status after the signal; no process of the server may be left."""
        family = self.family()
        self.process.send_signal(signal_number)
        self.wait()
        assert not psutil.wait_procs(family, timeout=5)[1]
        return self.output, self.process.returncode


def status_of(url, **options):
    """HTTP's, None if nobody answers."""
    try:
        return httpx.request(url=url, **{"method": "GET", "timeout": 30, **options}).status_code
    except httpx.TransportError:
        return None
