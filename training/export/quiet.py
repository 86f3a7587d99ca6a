"""What the exporters' libraries print about themselves, which is not for those who export: the one place that silences it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

LOGGERS = (
    "nncf",
    "onnxscript",
    "onnx_ir",
    "openvino",
    "torch.export",
    "torch.onnx",
    "torch.utils.cpp_extension",
    "onnxruntime",
    "root",
)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within `with`: no warnings, no log below ERROR, no progress bars. What fails raises, as ever."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    # torch.onnx, NNCF's bars and ONNX Runtime's quantiser print on standard output
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
