"""Whether the ports that a server takes are free: checked before anything is started or written."""

import errno
import socket

from scripts.errors import SeeFoodError
from scripts.settings import ports_of

LOOPBACK = "127.0.0.1"


class PortError(SeeFoodError):
    """A port cannot be used; the message names it and says what to do."""


def check_ports(host: str, port: int, metrics_host: str = LOOPBACK) -> None:
    """PortError naming the first port that is taken, and by which process if the system shows it."""
    hosts = {"inference": host, "metrics": metrics_host}  # management is on loopback
    for name, number in ports_of(port).items():
        address = hosts.get(name, LOOPBACK)
        if not 1 <= number <= 65535:
            raise PortError(f"the {name} port would be {number}, expected 1 to 65535: choose another PORT")
        with socket.socket() as probe:
            # as the servers do: a port whose last connections are in TIME_WAIT is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, number))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortError(
                        f"the {name} port {number} is taken{_holder(number)}: end that, or choose others with PORT={port + 1000}"
                    ) from error
                raise PortError(f"the {name} port {number} of {address} cannot be opened: {error.strerror}") from error


def _holder(port: int) -> str:
    import psutil  # not where all ports are free: serve imports little before TorchServe starts

    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        process = psutil.Process(next(c.pid for c in listening if c.laddr and c.laddr.port == port))
        return f" by process {process.pid} ({process.name()})"
    except (psutil.Error, StopIteration, TypeError):  # processes of other users are not shown
        return ""
