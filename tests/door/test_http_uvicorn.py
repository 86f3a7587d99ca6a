"""What the layer takes of uvicorn's and httptools' inner parts, so that a new version that changes it fails here."""

import hashlib
import inspect

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# each method that is inherited, or replaced with one that keeps its contract: after a change of uvicorn read it anew
PARTS = {
    HttpToolsProtocol: ("__init__", "connection_made", "connection_lost", "on_message_begin", "_start_asgi_task", "shutdown"),
    RequestResponseCycle: ("__init__", "run_asgi", "send_500_response", "send", "receive"),
    FlowControl: ("drain", "pause_reading", "resume_reading", "pause_writing", "resume_writing"),
    uvicorn.Server: ("__init__", "serve", "_serve", "startup", "main_loop", "on_tick", "shutdown", "capture_signals"),
}
DIGEST = "1e65032744249383"


def test_uvicorn_is_as_the_layer_expects_it():
    source = "".join(inspect.getsource(getattr(part, name)) for part, names in PARTS.items() for name in names)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == DIGEST, f"uvicorn {uvicorn.__version__}: read {PARTS} anew"


def test_parser_calls_back_as_the_layer_expects_it():
    class Calls(list):
        def on_message_begin(self):
            self.append("begin")

        def on_header(self, name, value):
            self.append((name, value))

        def on_headers_complete(self):
            self.append(parser.should_keep_alive())

        def on_body(self, body):
            self.append(body)

        def on_message_complete(self):
            self.append("complete")

    calls = Calls()
    parser = httptools.HttpRequestParser(calls)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a \r\nTransfer-Encoding: chunked\r\n\r\n")
    assert calls == ["begin", (b"Host", b"a "), (b"Transfer-Encoding", b"chunked"), True]
    parser.feed_data(b"1\r\na\r\n0\r\nB: c\r\n\r\n")
    assert calls[4:] == [b"a", (b"B", b"c"), "complete"]
