"""The pages for people: / and /docs, which are files of web/. They need nothing from elsewhere, and no key."""

import gzip
import hashlib
import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scripts.paths import ROOT

WEB = ROOT / "web"
PAGES = {"/": "index.html", "/docs": "docs.html"}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
# nothing from elsewhere and nothing inline; photos that the page draws itself; no other site may frame it
POLICY = "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # a new version of the server has a new page: the browser asks whether its own is still good
}


# gzip is among the accepted codings, and not with a weight of zero (RFC 9110, 12.5.3)
GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))")


class File:
    """A file of web/, as it was when the door started."""

    def __init__(self, name: str) -> None:
        path = WEB / name
        self.content, self.kind = path.read_bytes(), TYPES[path.suffix]
        self.packed = gzip.compress(self.content, mtime=0) if path.suffix != ".png" else None
        self.tag = hashlib.sha256(self.content).hexdigest()[:16]
        self.headers = HEADERS | {"vary": "accept-encoding"}
        if name == "offline.js":  # else it might keep files of /web/ alone
            self.headers["service-worker-allowed"] = "/"

    async def answer(self, request: Request) -> Response:
        """GET. 304 for a browser that has it."""
        content, tag, coding = self.content, f'"{self.tag}"', {}
        if self.packed is not None and GZIP.search(request.headers.get("accept-encoding", "")):
            content, tag, coding = self.packed, f'"{self.tag}-gzip"', {"content-encoding": "gzip"}
        headers = self.headers | {"etag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers | coding | {"content-type": self.kind})


def page_files() -> dict[str, str]:
    """By path, the file in web/ that is answered."""
    return PAGES | {f"/web/{path.name}": path.name for path in sorted(WEB.iterdir()) if path.name not in PAGES.values()}


def page_routes() -> list[Route]:
    """GET of each. OSError if web/ cannot be read."""
    return [Route(path, File(name).answer) for path, name in page_files().items()]
