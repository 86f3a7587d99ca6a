"""Why TorchServe is patched: two faults of its front end (0.12.0, Java), which gets no more releases to fix them.

1. `curl --data-binary @photo.jpg` gets a 500. curl labels such a body application/x-www-form-urlencoded, and the front end
   decodes it as form fields: a photo's bytes are no such fields, and the decoder fails. Patched, a body under that label is
   taken as it is. Multipart forms are recognised in another way, and work as before.
2. A lone request waits for further requests. To fill a batch the front end waits for them up to maxBatchDelay, at least
   1 ms. That gains nothing: while a worker is busy requests queue up, and batches fill by themselves. Patched, a batch takes
   what is queued, up to batchSize, and goes.

How: each fault is a few bytes in one class (PATCHES). At each start the class is read from the installed jar, patched, and
written to TorchServe's working folder, which comes first on its class path. The installed jar is never changed. Another
TorchServe, in which a pattern is not found exactly once, is refused.
"""

import importlib.util
import re
import zipfile
from pathlib import Path


def _constant(name: bytes) -> bytes:
    # a UTF-8 entry of a class file's constant pool: tag 1, two bytes of length, the text (JVM specification, 4.4.7)
    return b"\x01" + len(name).to_bytes(2, "big") + name


# class: (the bytes to find, exactly once, and their replacement)
PATCHES: dict[str, tuple[re.Pattern[bytes], bytes]] = {
    # 1. The class looks the content type up by the name of a constant, HttpHeaderValues.APPLICATION_X_WWW_FORM_URLENCODED.
    # With the name of another constant, "chunked", which is no content type, the comparison is never true.
    "org/pytorch/serve/http/api/rest/InferenceRequestHandler.class": (
        re.compile(re.escape(_constant(b"APPLICATION_X_WWW_FORM_URLENCODED"))),
        _constant(b"CHUNKED"),
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
    package = importlib.util.find_spec("ts")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).parent / "frontend" / "model-server.jar") as jar:
        for name, (found, replacement) in PATCHES.items():
            patched, count = found.subn(replacement, jar.read(name))
            if count != 1:
                raise ValueError("this TorchServe is not 0.12.0, which scripts/backend/torchserve/frontend_patch.py needs")
            target = working_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(patched)
