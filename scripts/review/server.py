"""The review page's server, on loopback: the page, the photos, and where choices are sent.

Every user of this machine reaches it, and the photos are strangers': all its paths begin with a secret of this start, which only
the printed address has. It changes files, so only its own page may ask: the Host has to be this machine's, which a name that points
here (DNS rebinding) is not, and a choice has to come from that origin, as JSON. A label that is no class yet has to be sent as new.
"""

import difflib
import io
import json
import secrets
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from PIL import Image

from handler.preprocess import PhotoError, read_photo
from scripts.page_style import SHARED
from scripts.review.decisions import Decision, Decisions, check
from scripts.review.items import Item

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": (PAGE / "index.html", "text/html"),
    "/page.css": (SHARED, "text/css"),
    "/review.css": (PAGE / "review.css", "text/css"),
    "/review.js": (PAGE / "review.js", "text/javascript"),
}
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
MAX_BODY = 4096
SIDE = 1280  # pixels of a photo that is shown
TIMEOUT_S = 30.0


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An answer with an error's status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewServer(ThreadingHTTPServer):
    """Serves the items in this order inside `with`."""

    daemon_threads = True

    def __init__(self, port: int, items: Sequence[Item], labels: Sequence[str], decisions: Decisions) -> None:
        """Listen. OSError if the port is taken."""
        self.items, self.decisions, self.labels = items, decisions, decisions.labels().union(labels)
        self.secret, self.lock = secrets.token_urlsafe(24), threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self.port: int = self.server_address[1]
        self.hosts = {f"127.0.0.1:{self.port}", f"localhost:{self.port}"}
        self.url = f"http://127.0.0.1:{self.port}/{self.secret}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, name="review", daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        with self.lock:  # a choice that is being written
            self.server_close()

    def everything(self) -> bytes:
        """What the page needs, as JSON."""
        with self.lock:
            items = [self._shown(item) for item in self.items]
            return json.dumps({"labels": sorted(self.labels), "items": items}).encode()

    def _shown(self, item: Item) -> dict[str, Any]:
        decision = self.decisions.of(item.path)
        answers = [
            {"version": one.get("version"), "sure": one.get("sure"), "predictions": one["predictions"][:5]} for one in item.answers
        ]
        return {
            "source": item.source,
            "title": item.title,
            "answers": answers,
            "differs": item.differs,
            "given": item.given,
            "feedback": item.feedback,
            "kind": decision.kind,
            "label": decision.label,
        }

    def item(self, number: str) -> Item:
        """Refused if there is none."""
        if not (number.isascii() and number.isdecimal()) or int(number) >= len(self.items):
            raise Refused(404, f"the photo is {number[:20]!r}, expected 0 to {len(self.items) - 1}")
        return self.items[int(number)]

    def photo(self, number: str) -> bytes:
        """A JPEG of it, upright and small enough for a screen: browsers show no HEIC. Refused if it cannot be read."""
        try:
            photo = read_photo(self.item(number).path.read_bytes(), SIDE)
        except (PhotoError, OSError) as error:
            raise Refused(422, f"the photo cannot be read: {error}") from error
        photo.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        photo.save(content, "JPEG", quality=85)
        return content.getvalue()

    def choose(self, body: bytes) -> bytes:
        """Keep a choice, {"item", "kind", "label", "new": whether the label may be none of the classes}. Refused."""
        try:
            given = json.loads(body)
            item, decision = self.item(str(given["item"])), Decision(given["kind"], given["label"])
            check(decision)
            with self.lock:
                if decision.label is not None and given.get("new") is not True:
                    self._check_known(decision.label)
                self.decisions.decide(item.path, decision)
                self.labels |= {decision.label} if decision.label is not None else set()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Refused(422, f"this is no choice: {error}") from error
        except OSError as error:
            raise Refused(507, f"the choice cannot be written: {error.strerror}: make room, then choose again") from error
        return b"{}"

    def _check_known(self, label: str) -> None:
        """Refused if it is no class yet."""
        if label not in self.labels:
            close = difflib.get_close_matches(label, self.labels, n=3)
            hint = f" (close: {', '.join(close)})" if close else ""
            raise Refused(422, f"{label[:80]!r} is no class yet{hint}: choose it as a new class, if it is one")


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    server_version = "seefood"
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, of: Any) -> None:
        try:
            if self.headers.get("host", "") not in self.server.hosts:
                raise Refused(421, f"the page is at 127.0.0.1:{self.server.port}, at the address that make review has printed")
            kind, body = of(self._below_secret())
            status = 200
        except Refused as refused:
            status, kind, body = refused.status, "application/json", json.dumps({"message": str(refused)}).encode()
            self.close_connection = True  # a body may not have been read
        self.send_response(status)
        for name, value in {**HEADERS, "content-type": kind, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _below_secret(self) -> str:
        """The path without the secret that it has to begin with. Refused: whoever does not have it learns of no path."""
        _, given, *rest = [*self.path.partition("?")[0].split("/", 2), ""]
        if not secrets.compare_digest(given.encode(errors="replace"), self.server.secret.encode()):
            raise Refused(403, "the page is of an earlier start, or not yours: open the address that make review has printed")
        return f"/{rest[0]}"

    def _get(self, path: str) -> tuple[str, bytes]:
        # a page elsewhere gets nothing, not even the size of a picture
        if self.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refused(403, "another site's page may not look at these photos")
        if path in FILES:
            file, kind = FILES[path]
            return f"{kind}; charset=utf-8", file.read_bytes()
        if path == "/review.json":
            return "application/json", self.server.everything()
        if path.startswith("/photos/"):
            return "image/jpeg", self.server.photo(path.removeprefix("/photos/"))
        raise Refused(404, f"there is no {path[:80]}")

    def _post(self, path: str) -> tuple[str, bytes]:
        headers = self.headers
        if headers.get("origin") != f"http://{headers['host']}" or headers.get("content-type") != "application/json":
            raise Refused(403, "a choice comes from this page alone")
        length = headers.get("content-length", "")
        if path != "/choices" or not (length.isascii() and length.isdecimal()) or int(length) > MAX_BODY:
            raise Refused(400, f"expected POST /choices with up to {MAX_BODY} bytes")
        return "application/json", self.server.choose(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""
