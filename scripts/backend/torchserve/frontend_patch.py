"""Why TorchServe is patched: two faults of its front end (0.12.0, Java), which gets no more releases to fix them.

1. It opens two ports for gRPC, and has no setting against it. One call of StreamPredictions by anybody who reaches them ends
   serving for good (pytorch/serve#3087). Patched, it does not start gRPC.
2. A lone request waits for further requests. To fill a batch the front end waits for them up to maxBatchDelay, at least
   1 ms. That gains nothing: while a worker is busy requests queue up, and batches fill by themselves. Patched, a batch takes
   what is queued, up to batchSize, and goes.

How: each fault is a few bytes in one class (PATCHES). The class is read from the installed jar, patched, and written to a jar of
its own, which comes first on the class path (front_end.py). The installed jar is never changed. Another TorchServe, in which a
pattern is not found exactly once, is refused.
"""

import os
import re
import zipfile
from pathlib import Path

from scripts.atomic import aside
from scripts.backend.torchserve.native import jar

WRITTEN_AT = 315532800  # seconds since 1970: zip's own beginning, 1980

# class: (the bytes to find, exactly once, and their replacement)
PATCHES: dict[str, tuple[re.Pattern[bytes], bytes]] = {
    # 1. startAndWait begins with `startRESTserver(); startGRPCServers();`. The second call is `aload_0; invokevirtual`, after
    # `aload_0; invokevirtual; astore_1` and before `aload_0; getfield; invokevirtual; ifne`. Four nops take its place: it leaves
    # nothing on the stack, and where it ends no gRPC server is taken for one that never started (JVM specification, 6.5)
    "org/pytorch/serve/ModelServer.class": (
        re.compile(rb"(?<=\x4c)\x2a\xb6..(?=\x2a\xb4..\xb6..\x9a)", re.DOTALL),
        b"\x00\x00\x00\x00",
    ),
    # 2. pollInferJob calls `jobsQueue.poll(maxBatchDelay, TimeUnit.MILLISECONDS)`. `lload 6` puts the delay on the stack,
    # before `getstatic; invokevirtual poll; checkcast Job; astore 8`. `lconst_0; nop` puts 0 there (JVM specification, 6.5)
    "org/pytorch/serve/wlm/Model.class": (
        re.compile(rb"\x16\x06(?=\xb2..\xb6..\xc0..\x3a\x08)", re.DOTALL),
        b"\x09\x00",
    ),
}


def write_patched_jar(path: Path) -> None:
    """Write a jar of the patched classes, which goes before TorchServe's own. ValueError unless that is 0.12.0."""
    with zipfile.ZipFile(jar()) as content, aside(path) as part:
        with zipfile.ZipFile(part, "w") as patched:
            for name, (found, replacement) in PATCHES.items():
                class_file, count = found.subn(replacement, content.read(name))
                if count != 1:
                    raise ValueError("this TorchServe is not 0.12.0, which scripts/backend/torchserve/frontend_patch.py needs")
                patched.writestr(zipfile.ZipInfo(name), class_file)  # whoever writes it, it has the same bytes ...
        os.utime(part, (WRITTEN_AT, WRITTEN_AT))  # ... and time, which Java compares with that of what it has kept
