"""How many connections there may be, and that idle ones never lock others out. Real processes with few descriptors."""

import asyncio
import contextlib
import resource
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from scripts.door.addresses import networks
from scripts.door.http.connections import Connections
from scripts.door.http.limits import Limits
from scripts.door.http.protocol import DoorProtocol
from scripts.door.http.tls import make_self_signed
from tests.conftest import LIMIT_S, ROOT
from tests.door.asking import echo
from tests.door.http_client import GOOD, Client, connect, serve
from tests.waiting import until

HELD = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"


@contextlib.contextmanager
def process(tmp_path: Path, open_files: int, **limits: int | Path):
    """The server in a process that may open so many files; yields it and its port."""
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "tests.door.http_app", str(port_file), *(f"{name}={value}" for name, value in limits.items())]
    running = subprocess.Popen(
        command, cwd=ROOT, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    )
    try:
        port = until(lambda: port_file.read_text() if port_file.exists() else "", process=running)
        yield psutil.Process(running.pid), int(port)
        running.send_signal(signal.SIGTERM)
        assert running.wait(LIMIT_S) == 0
    finally:
        running.kill()
        running.wait(LIMIT_S)


def asks(port: int, count: int) -> list[int]:
    """The statuses of so many requests, each on a connection of its own."""
    statuses = []
    for _ in range(count):
        with connect(port) as client:
            statuses.append(client.ask(GOOD).status)
    return statuses


def test_longest_idle_connection_gives_way():
    with serve(Limits(connections=3)) as served, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(3)]
        for client in (clients[1], clients[0], clients[2]):
            assert client.ask(GOOD).status == 200
        assert asks(served.port, 1) == [200]
        assert clients[1].is_closed()
        assert clients[2].ask(GOOD).status == 200
        assert clients[0].ask(GOOD).status == 200
        assert served.ended["evicted"] == 1


@pytest.mark.parametrize("start", [b"", b"GET / HT"])
def test_connections_that_wait_for_their_client_give_way(start):
    with serve(Limits(connections=10)) as served, contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(served.connect()).send(start)
        assert asks(served.port, 20) == [200] * 20


@pytest.mark.parametrize(("limits", "status"), [(Limits(connections=5), 503), (Limits(connections_per_address=5), 429)])
def test_connection_without_room_is_told_when_to_come_again(limits, status):
    with serve(limits) as served:
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(served.connect()).send(HELD)
            until(lambda: sum(other.is_busy for other in served.server.connections[0].open) == 5)
            for _ in range(50):  # as many as may linger, and more
                with served.connect() as client:
                    answer = client.answer()
                    assert (answer.status, answer.header("retry-after")) == (status, "2")
                    assert client.is_closed()
        until(lambda: not served.server.connections[0].open)
        assert asks(served.port, 2) == [200, 200]


class Peer(asyncio.Transport):
    """A connection from an address, which this machine need not have."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 50000)})

    def abort(self) -> None:
        pass


def has_place(connections: Connections, address: str) -> bool:
    """Whether another connection of this address, which stays busy, finds a place."""
    door = DoorProtocol(Config(echo), ServerState(), {}, connections)
    door.meet(Peer(address))
    connections.leave(door)
    return not door.is_refused


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8::1:ffff:ffff:ffff:ffff"], "2001:db8:0:2::1"),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], "192.0.2.2"),
        (["fe80::1%eth0", "fe80::2%eth1", "fe80::3"], "::1"),
    ],
)
def test_connections_are_counted_for_the_customer_who_has_the_address(own, others):
    async def story() -> None:
        connections = Connections(Limits(connections_per_address=2))
        assert [has_place(connections, address) for address in own] == [True, True, False]
        assert has_place(connections, others)

    asyncio.run(story())


def test_connections_of_a_trusted_proxy_are_those_of_many_clients():
    async def story() -> None:
        limits = Limits(connections_per_address=2, connections=5, proxies=networks(["10.0.0.0/8"]))
        connections = Connections(limits)
        assert [has_place(connections, address) for address in ["10.0.0.1"] * 3 + ["11.0.0.1"] * 3] == [True] * 5 + [False]

    asyncio.run(story())


def test_many_idle_connections_beside_few_descriptors(tmp_path):
    """400 idle connections, 300 descriptors: ordinary clients are answered, and the process rests."""
    with process(tmp_path, open_files=300) as (server, port), contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(contextlib.closing(connect(port).socket))
        assert asks(port, 50) == [200] * 50
        assert server.num_fds() < 300
        assert server.cpu_percent(interval=1.0) < 50


def test_burst_of_connections_does_not_end_the_listener(tmp_path):
    """All at once, without a wait for any: more than the process may open in one go."""
    with process(tmp_path, open_files=100, reserved_files=10) as (_, port), contextlib.ExitStack() as stack:
        for _ in range(5):
            sockets = [stack.enter_context(contextlib.closing(connect(port).socket)) for _ in range(200)]
            for each in sockets:
                each.close()
            # while the burst is taken in, the system may have no descriptor for one more
            until(lambda: answers_all(port))


def answers_all(port: int) -> bool:
    try:
        return asks(port, 5) == [200] * 5
    except AssertionError:  # a connection was reset
        return False


@pytest.mark.slow
def test_connections_over_tls_take_as_much_memory_as_their_limit_says(tmp_path):
    count, body = 200, 240_000
    certfile, keyfile = make_self_signed(tmp_path / "pair")
    context = ssl.create_default_context(cafile=str(certfile))
    with contextlib.ExitStack() as stack:
        server, port = stack.enter_context(process(tmp_path, 1000, certfile=certfile, keyfile=keyfile))

        def client() -> Client:
            raw = connect(port).socket
            return stack.enter_context(Client(context.wrap_socket(raw, server_hostname="localhost")))

        assert client().ask(GOOD).status == 200
        before, kilobytes = server.memory_info().rss, []
        clients = [client() for _ in range(count)]
        for request in (GOOD, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % body + bytes(body)):
            assert {each.ask(request).status for each in clients} == {200}
            kilobytes.append((server.memory_info().rss - before) / count / 1000)
        print("a connection over TLS: {:.0f} kB idle, {:.0f} kB once a body has come".format(*kilobytes))
        assert kilobytes[0] < 80
        assert kilobytes[1] < 500


@pytest.mark.slow
def test_ten_thousand_idle_connections_take_little_memory(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 10_500:
        pytest.skip(f"{hard} open files are allowed, 10,500 needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with process(tmp_path, open_files=hard, connections_per_address=20_000, idle_s=600) as (server, port):
        assert asks(port, 5) == [200] * 5
        clients = []
        for _ in range(10_000):
            client = connect(port)
            assert client.ask(GOOD).status == 200
            client.file.close()
            clients.append(client.socket)
        assert server.num_fds() > 10_000
        memory = server.memory_info().rss
        print(f"10,000 idle connections: {memory / 1e6:.0f} MB, {server.cpu_percent(interval=2.0):.0f} % of a CPU")
        assert memory < 200e6
        assert asks(port, 20) == [200] * 20
        for each in clients:
            each.close()
        until(lambda: server.num_fds() < 50)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no such bound")
def test_system_holds_little_for_a_client_that_does_not_read():
    with serve() as served, served.connect() as client:
        client.send(b"GET /big?100000 HTTP/1.1\r\nHost: a\r\n\r\n" * 60)
        # the answer that waits for its client; Linux alone would take 40 of them
        until(lambda: any(connection.flow.write_paused for connection in served.server.connections[0].open))
        assert served.app.asked["/big"] < 10
