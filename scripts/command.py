"""One way to run a command: parser, errors on stderr, exit status, signals. Each ends in

    if __name__ == "__main__":
        sys.exit(run(main))

Exit status: 0, or what `main` returns; 1 after an error; 2 for wrong arguments (argparse's); 128 + the signal's number when
interrupted: 130 Ctrl-C, 143 SIGTERM, 129 a closed terminal; 141 when whoever reads the output went away.
"""

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from scripts.errors import FullDiskError, SeeFoodError, is_full


class Interrupted(KeyboardInterrupt):
    """SIGTERM, or the terminal was closed. Handled as Ctrl-C is: what is half done is put back on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help text is the command's module docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def fail(message: object) -> int:
    """Print `error: message` on stderr. Returns the exit status, 1."""
    _print_error(f"error: {message}")
    return 1


def run(main: Callable[[], int | None], interrupted: str = "") -> int:
    """Exit status of `main`; its errors go to stderr. `interrupted` says after Ctrl-C or SIGTERM what is left as it was."""
    before = {number: signal.signal(number, _interrupt) for number in _signals()}
    try:
        status = _unmasked(main) or 0
        _flush()
        return status
    except KeyboardInterrupt as error:
        _print_error("interrupted" + (f": {interrupted}" if interrupted else ""))
        return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
    except BrokenPipeError:
        _print_nowhere()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if isinstance(error, FullDiskError):  # it has its own advice
            return fail(error.strerror)
        return fail(f"the disk is full ({error}): make room, then run the same command again" if is_full(error) else error)
    except (SeeFoodError, ValueError) as error:
        return fail(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unmasked(main: Callable[[], int | None]) -> int | None:
    """What `main` returns or raises: an interruption also where cleaning up after it raised, as closing a half-written zip does."""
    try:
        return main()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
        raise


def _flush() -> None:
    # not at exit, where a reader or a terminal that has gone would end in a traceback
    try:
        if sys.stdout is not None:  # it is None where it was closed from the start: `command >&-`
            sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal was closed
            raise
        _print_nowhere()


def _print_nowhere() -> None:
    """Whatever else is printed, at exit too, goes nowhere."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # a closed terminal
        print(text, file=sys.stderr, flush=True)


def _signals() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP unless nohup has it ignored."""
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)
