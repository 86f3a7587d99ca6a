"""A server by script: what it answers to each photo, and to each look at its other pages."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scripts.predict.server import Server
from tests.predict.test_tables import answered


class Scripted(ThreadingHTTPServer):
    """Answers photo `body` by what `script` returns for (body, how often it came): (status, headers, content)."""

    daemon_threads = True

    def __init__(self, script, port=0):
        self.script, self.asked, self.requests, self.now, self.most = script, {}, [], 0, 0
        models = [{"name": "model", "schema": {"enum": ["food"]}}]
        self.pages = {  # by path: (status, content), one after the other, the last one for good
            "/openapi.json": [(200, {"paths": {"/predictions/{model}": {"post": {"parameters": models}}}})],
            "/readyz": [(200, {"ready": True, "version": "1.0.0"})],
            "/v1/models": [(200, {"models": ["food"]})],
        }
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Answering)

    def handle_error(self, request, client_address):
        """A client that went away: nothing to print."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body, server = self.rfile.read(int(self.headers["content-length"])).decode("latin-1"), self.server
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            server.asked[body] = server.asked.get(body, 0) + 1
            server.requests.append((self.path, dict(self.headers)))
        status, headers, content = server.script(body, server.asked[body])
        with server.lock:
            server.now -= 1
        self.answer(status, headers, content)

    def do_GET(self):
        answers = self.server.pages.get(self.path.removeprefix("/below"), [(404, {"message": "none"})])
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        self.answer(status, {}, content)

    def answer(self, status, headers, content):
        if status is None:
            self.close_connection = True
            return
        data = json.dumps(content).encode() if not isinstance(content, bytes) else content
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(script, port=0):
    with Scripted(script, port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fine(body, times):
    answer = answered(body)
    del answer["photo"]
    return 200, {}, answer


def ask(server, photos, url="", version=None):
    return list(Server(url or server.url, None if server else "food", version).answers(iter(photos)))
