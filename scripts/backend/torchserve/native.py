"""netty's own code for Unix sockets, which the JVM loads as a program: where it lies.

netty takes it out of the jar and loads it from the temporary folder, which fails where that may hold no programs (noexec, as /tmp
in a container). So it is taken out before: into a folder of the server, or beside the jar when an image is built.
"""

import importlib.util
import os
import platform
import zipfile
from pathlib import Path

from scripts.atomic import write_bytes

# in the jar, by platform.system() and platform.machine()
LIBRARIES = {
    ("Linux", "x86_64"): "libnetty_transport_native_epoll_x86_64.so",
    ("Linux", "aarch64"): "libnetty_transport_native_epoll_aarch_64.so",
    ("Darwin", "x86_64"): "libnetty_transport_native_kqueue_x86_64.jnilib",
}


def jar() -> Path:
    """TorchServe's front end, as it was installed."""
    package = importlib.util.find_spec("ts")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "frontend" / "model-server.jar"


def has_unix_sockets(system: str, machine: str) -> bool:
    """Whether TorchServe can listen on Unix sockets there."""
    return (system, machine) in LIBRARIES


def prepared_folder() -> Path:
    """Where an image has the library: beside the jar."""
    return jar().parent / "native"


def native_folder(run_dir: Path) -> Path | None:
    """The folder for the library: the image's, else the server's own; None where neither may hold programs."""
    if prepared_folder().is_dir():
        return prepared_folder()
    return None if os.statvfs(run_dir).f_flag & os.ST_NOEXEC else run_dir / "native"


def take_out(folder: Path) -> None:
    """Take the library for this machine out of the jar, if there is one, unless it is in the folder already."""
    name = LIBRARIES.get((platform.system(), platform.machine()))
    if name is None or (folder / name).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(jar()) as content:
        write_bytes(folder / name, content.read(f"META-INF/native/{name}"))
