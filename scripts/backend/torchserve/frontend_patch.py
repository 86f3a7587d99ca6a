"""Why TorchServe is patched: two faults of its front end (0.12.0, Java), which gets no more releases to fix them.

1. It opens two ports for gRPC, and has no setting against it. One call of StreamPredictions by anybody who reaches them ends
   serving for good (pytorch/serve#3087). Patched, it does not start gRPC.
2. A lone request waits for further requests. To fill a batch the front end waits for them up to maxBatchDelay, at least
   1 ms. That gains nothing: while a worker is busy requests queue up, and batches fill by themselves. Patched, a batch takes
   what is queued, up to batchSize, and goes.

How: each fault is a few bytes in one class (PATCHES). At each start the class is read from the installed jar, patched, and
written to TorchServe's working folder, which comes first on its class path. The installed jar is never changed. Another
TorchServe, in which a pattern is not found exactly once, is refused.
"""

import re
import zipfile
from pathlib import Path

from scripts.backend.torchserve.native import jar

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


def write_patched_classes(working_dir: Path) -> None:
    """Write the patched classes to where TorchServe, started in `working_dir`, finds them first. ValueError unless it is 0.12.0."""
    with zipfile.ZipFile(jar()) as content:
        for name, (found, replacement) in PATCHES.items():
            patched, count = found.subn(replacement, content.read(name))
            if count != 1:
                raise ValueError("this TorchServe is not 0.12.0, which scripts/backend/torchserve/frontend_patch.py needs")
            target = working_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(patched)
