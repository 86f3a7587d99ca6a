"""Where the door brings feedback while photos are kept on S3: a Unix socket for this user alone.

The door reads what strangers send, so it has no credentials. A connection is one line of JSON, {"id", "label"}, and one back:
what was kept, or {"error": the arguments of a DoorError}.
"""

import json
import threading
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import TYPE_CHECKING, Any

from handler.captured import answer_of
from scripts.door.errors import DoorError
from scripts.release.store import StoreError

if TYPE_CHECKING:
    from scripts.serving.capture_uploads import CaptureUploads

RETRY_AFTER_S = 10.0
LINE_BYTES = 64 * 1024
IDLE_S = 10.0


class FeedbackSocket(ThreadingUnixStreamServer):
    """Answers the door from `start` to `stop`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, uploads: "CaptureUploads") -> None:
        self.uploads = uploads
        super().__init__(str(path), _Handler)

    def start(self) -> None:
        """On a thread of its own."""
        threading.Thread(target=self.serve_forever, name="feedback to S3", daemon=True).start()

    def stop(self) -> None:
        """Take no more."""
        self.shutdown()
        self.server_close()

    def keep(self, request_id: str, label: str | None) -> dict[str, Any]:
        """Keep feedback on S3. DoorError."""
        uploads = self.uploads
        assert uploads.store is not None
        try:
            # first here: the photo may not be on S3 yet
            path = answer_of(uploads.folder, request_id)
            answer = self._answer(path) if path else None
            place = f"{path.parent.name}/{path.name}" if path else None
            return uploads.store.keep(request_id, label, answer, place)
        except (StoreError, FileNotFoundError) as error:
            # the reason is the operator's, who finds it in the log
            raise DoorError("the feedback cannot be kept now: its storage is away", 503, "StorageError", RETRY_AFTER_S) from error

    def _answer(self, path: Path) -> dict[str, Any] | None:
        """The answer, whose photo is on S3 by then: feedback without it would belong to nothing. None if it is pruned.

        StoreError.
        """
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return content if self.uploads.copy_now(path) else None


class _Handler(StreamRequestHandler):
    server: FeedbackSocket
    timeout = IDLE_S

    def handle(self) -> None:
        try:
            asked = json.loads(self.rfile.readline(LINE_BYTES))
            answer = self.server.keep(asked["id"], asked["label"])
        except DoorError as error:
            answer = {"error": {"message": str(error), "status": error.status, "kind": error.kind, "headers": error.headers}}
        self.wfile.write(json.dumps(answer).encode() + b"\n")
