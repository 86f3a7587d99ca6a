"""In TorchServe's place: whatever answer a test needs of a worker."""

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Reply = tuple[int, dict[str, str], bytes]
# what TorchServe 0.12 answers when the handler raises
RAISED: Reply = (503, {}, b'{"code": 503, "type": "InternalServerException", "message": "Prediction failed"}')


class _Worker(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            status, headers, body = self.server.answer(self.rfile.read(length))
            lines = [
                f"HTTP/1.1 {status} -",
                f"content-length: {len(body)}",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
            self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    answer: Callable[[bytes], Reply]


@contextlib.contextmanager
def answering(folder: Path, answer: Callable[[bytes], Reply]) -> Iterator[Path]:
    """The folder of a socket at which each photo gets `answer(photo)`: status, headers, body."""
    with _Server(str(folder / "inference"), _Worker) as backend:
        backend.answer = answer
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        yield folder
        backend.shutdown()
