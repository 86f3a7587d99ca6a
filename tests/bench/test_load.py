"""The load generator against small real servers."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from scripts.bench.http_message import Target, build_request, parse_answer
from scripts.bench.load import closed_loop, open_loop
from scripts.bench.report import notes
from scripts.bench.result import Result
from tests.conftest import LIMIT_S

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"


class Server:
    """An HTTP server in a thread: `answer(number, request)` gives each request's bytes, and whether to close afterwards."""

    def __init__(self, answer):
        self.answer, self.requests, self.connections = answer, [], 0
        self.loop, ready = asyncio.new_event_loop(), threading.Event()

        async def start():
            self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
            ready.set()

        self.loop.create_task(start())
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        ready.wait(LIMIT_S)

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
                self.requests.append(head + body)
                answered = self.answer(len(self.requests), head + body)
                answered, close = await answered if asyncio.iscoroutine(answered) else answered
                writer.write(answered)
                if close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        writer.close()

    def stop(self):
        async def end():
            self.server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(LIMIT_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT_S)
        self.loop.close()


@contextmanager
def serving(answer):
    server = Server(answer)
    try:
        yield server
    finally:
        server.stop()


def load(server, kind=closed_loop, setting=4, seconds=0.4, warm_up_s=0.1, timeout_s=5.0, field=None):
    target = Target.of(server.url, "/predict?x=1")
    requests = [build_request(target, bytes([65 + i]) * 1000, "image/jpeg", field) for i in range(3)]
    return kind(target, requests, setting, seconds, warm_up_s, timeout_s)


def after(delay_s, answer=OK, close=False):
    async def answered(number, request):
        await asyncio.sleep(delay_s)
        return answer, close

    return answered


def test_closed_loop_keeps_its_connections_and_counts_what_the_server_answered():
    with serving(after(0.02)) as server:
        result = load(server, setting=4, seconds=1.0)
    assert server.connections == 4
    assert not result.errors
    assert len(result.latencies_ms) <= len(server.requests)
    # 4 connections at 20 ms: 200/s at most, less the time that a busy machine takes
    assert 60 < result.throughput <= 205
    assert result.answered == pytest.approx(len(result.latencies_ms), abs=8)
    assert 19 < result.percentile(50) < 60
    assert result.percentile(50) <= result.percentile(90) <= result.percentile(99) <= result.percentile(99.9)


def test_photos_are_sent_in_turn_as_the_raw_body():
    with serving(lambda number, request: (OK, False)) as server:
        load(server, setting=1, seconds=0.1, warm_up_s=0.0)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predict?x=1 HTTP/1.1\r\n")
    assert b"content-type: image/jpeg" in head
    assert [request[-1:] for request in server.requests[:4]] == [b"A", b"B", b"C", b"A"]
    assert len(body) == 1000


def test_photos_are_sent_in_a_form_field():
    with serving(lambda number, request: (OK, False)) as server:
        load(server, setting=1, seconds=0.1, field="content")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    boundary = re.search(rb"content-type: multipart/form-data; boundary=(\S+)", head)[1]
    part_head, _, rest = body.partition(b"\r\n\r\n")
    assert part_head.startswith(b"--" + boundary)
    assert b'name="content"; filename="photo"' in part_head
    assert rest == b"A" * 1000 + b"\r\n--" + boundary + b"--\r\n"


def test_errors_are_counted_by_kind_and_only_good_answers_as_throughput():
    def answer(number, request):
        every = number % 4
        if every == 0:
            return BUSY, False
        if every == 1:
            return b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n5\r\nphoto\r\n0\r\n\r\n", False
        return (b"HTTP/1.1 200 OK\r\ncontent-le", True) if every == 2 else (OK, False)

    with serving(answer) as server:
        result = load(server, setting=1, warm_up_s=0.0)
    assert set(result.errors) == {"503", "400", "reset"}
    assert max(result.errors.values()) - min(result.errors.values()) <= 1
    assert len(result.latencies_ms) == pytest.approx(result.errors["503"], abs=1)
    assert result.first_error == "400: no photo"
    assert result.errors.total() + len(result.latencies_ms) == len(server.requests)


def test_answer_that_says_close_is_no_error_and_opens_a_new_connection():
    with serving(lambda number, request: (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), True)) as server:
        result = load(server, setting=2)
    assert not result.errors
    assert server.connections >= len(result.latencies_ms) > 10


def test_refused_connections_are_counted():
    with serving(lambda number, request: (OK, False)) as server:
        pass
    for kind, setting in ((closed_loop, 2), (open_loop, 50)):
        result = load(server, kind, setting)
        assert set(result.errors) == {"refused"}
        assert result.throughput == 0
        assert 2 <= result.errors["refused"] <= 40  # a closed loop waits before it tries again


def test_slow_answers_time_out():
    with serving(after(2.0)) as server:
        started = time.monotonic()
        result = load(server, setting=3, timeout_s=0.2)
        assert time.monotonic() - started < 1.9
    assert set(result.errors) == {"timed out"}
    assert result.errors["timed out"] >= 3


def test_server_that_speaks_no_http_is_said_so():
    with serving(lambda number, request: (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", True)) as server:
        result = load(server, setting=1)
    assert set(result.errors) == {"not HTTP"}
    assert "SSH-2.0" in result.first_error


def stall(from_s, until_s):
    """A server that answers at once, but nothing between two times after its first request: one core, hung."""
    start = []

    async def answered(number, request):
        start.append(time.monotonic()) if not start else None
        now = time.monotonic() - start[0]
        if from_s <= now < until_s:
            await asyncio.sleep(until_s - now)
        return OK, False

    return answered


def test_open_loop_shows_a_stall_to_all_whom_it_met_and_closed_loop_hides_it():
    with serving(stall(0.5, 1.0)) as server:
        opened = load(server, open_loop, 100, seconds=1.5, warm_up_s=0.0)
    assert not opened.errors
    # Poisson with a fixed seed: 150 requests in 1.5 s, give or take
    assert 110 < len(opened.latencies_ms) < 190
    # half a second of 1.5: a third of the requests met it, and waited a quarter of a second on average
    waited = [ms for ms in opened.latencies_ms if ms > 60]
    assert 0.2 < len(waited) / len(opened.latencies_ms) < 0.45
    assert 400 < opened.percentile(99) < 700
    with serving(stall(0.5, 1.0)) as server:
        closed = load(server, closed_loop, 1, seconds=1.5, warm_up_s=0.0)
    assert closed.percentile(99) < 60


def test_open_loop_counts_from_the_schedule_when_no_connection_is_free(monkeypatch):
    monkeypatch.setattr("scripts.bench.load.MAX_OPEN_LOOP_CONNECTIONS", 1)
    with serving(after(0.05)) as server:
        result = load(server, open_loop, 60, seconds=1.0, warm_up_s=0.0)
    assert server.connections == 1
    # one connection does 20/s: of 60 requests the last waits for about 40 others
    assert result.percentile(99.9) > 1000
    assert result.percentile(50) > 400


def test_same_seed_gives_the_same_arrivals():
    with serving(lambda number, request: (OK, False)) as server:
        counts = [len(load(server, open_loop, 100, seconds=0.5).latencies_ms) for _ in range(2)]
    assert counts[0] == pytest.approx(counts[1], abs=2)


def test_load_generator_says_when_it_is_the_bottleneck_and_only_then():
    # two thousand chunks are one write for the server, and a millisecond's work for who reads them
    code = """
import asyncio
answer = b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n" + 2000 * b"1\\r\\nx\\r\\n" + b"0\\r\\n\\r\\n"
class Fast(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data):  # requests are one segment here
        self.transport.write(answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Fast, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        target = Target.of(f"http://127.0.0.1:{process.stdout.readline().strip()}/")
        fast = closed_loop(target, [build_request(target, b"x" * 100, "image/jpeg")], 16, 1.0, 0.2)
    finally:
        process.kill()
        process.communicate()
    assert fast.throughput > 0
    assert re.match("it was busy for .*% of the time|it acts .* ms late", fast.bottleneck())
    assert any("the load generator is the bottleneck: it " in note for note in notes([fast], None))
    with serving(after(0.2)) as server:
        slow = load(server, setting=4, seconds=0.6)
    assert slow.bottleneck() == ""
    assert slow.cpu_share < 0.3
    assert slow.busy_share < 0.5


def test_percentiles_are_nearest_ranks():
    result = Result("closed", 1, 1.0, latencies_ms=[float(ms) for ms in range(1, 101)])
    assert [result.percentile(p) for p in (50, 90, 99, 99.9)] == [50, 90, 99, 100]
    assert Result("closed", 1, 1.0, latencies_ms=[7.0]).percentile(50) == 7


@pytest.mark.parametrize(
    ("received", "status", "body", "keep_alive"),
    [
        (OK, 200, b"{}", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", 200, b"x", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nCONTENT-LENGTH:0\r\n\r\n", 404, b"", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-encoding: chunked\r\n\r\n4;ext\r\nabcd\r\n2\r\n\r\n\r\n0\r\n\r\n", 200, b"abcd\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    ],
)
def test_answers_are_parsed_in_whatever_pieces_they_come(received, status, body, keep_alive):
    for length in range(len(received)):
        assert parse_answer(received[:length]) is None
    assert parse_answer(received) == (status, body, keep_alive)


def test_answer_without_a_length_ends_with_its_connection():
    received = b"HTTP/1.1 200 OK\r\n\r\nsome"
    assert parse_answer(received) is None
    assert parse_answer(received, ended=True) == (200, b"some", False)
