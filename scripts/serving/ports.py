"""Whether the ports that serving takes are free."""

import errno
import socket

import psutil

from scripts.settings import ports_of


class PortError(RuntimeError):
    """A port cannot be listened on; the message names it and says what to do."""


def check_ports(host: str, port: int) -> None:
    """PortError naming the port that is taken, and by whom as far as the system tells."""
    for name, number in ports_of(port).items():
        if not 1 <= number <= 65535:
            raise PortError(f"{name} port {number} is no port, expected 1 to 65535")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host if name in ("inference", "health") else "127.0.0.1", number))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortError(
                        f"the {name} port {number} is taken{_holder(number)}: end that, or choose others with PORT={port + 1000}"
                    ) from error
                raise PortError(f"the {name} port {number} of {host} cannot be opened: {error.strerror}") from error


def _holder(port: int) -> str:
    try:
        held = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN]
        process = psutil.Process(held[0].pid)
        return f" by process {process.pid} ({process.name()})"
    except (psutil.Error, IndexError, TypeError):  # other people's processes are not shown to us
        return ""
