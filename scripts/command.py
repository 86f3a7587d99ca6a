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
import threading
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


def end_quietly_until_run() -> None:
    """For the `__init__.py` of a package of commands: a signal while `python -m` still imports ends it in one sentence.

    Does nothing where the package is imported by another program.
    """
    if sys.argv[:1] == ["-m"]:  # what stands there while Python looks for the module that it is to run
        for number in ending_signals():
            signal.signal(number, _leave)


def ending_signals() -> list[signal.Signals]:
    """Ctrl-C, SIGTERM and SIGHUP, without those that are ignored: nohup ignores SIGHUP, a shell's background job Ctrl-C."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def run(main: Callable[[], int | None], interrupted: str = "") -> int:
    """Exit status of `main`; its errors go to stderr. `interrupted` says after Ctrl-C or SIGTERM what is left as it was."""
    before, hook = {number: signal.signal(number, _interrupt) for number in ending_signals()}, sys.unraisablehook
    over = False

    def unraisable(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            _send_again(lost.exc_value)
        elif not over:  # what an interruption left half done, as a zip, cannot always be closed
            hook(lost)

    sys.unraisablehook = unraisable
    try:
        status = _unmasked(main) or 0
        _flush()
        return status
    except KeyboardInterrupt as error:
        over = True
        _print_error("interrupted" + (f": {interrupted}" if interrupted else ""))
        return 128 + _number(error)
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
        if not over:  # else it counts up to the process's end, where the rest is cleaned up
            sys.unraisablehook = hook
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


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted(number)


def _number(error: KeyboardInterrupt) -> int:
    return error.number if isinstance(error, Interrupted) else signal.SIGINT


def _send_again(lost: KeyboardInterrupt) -> None:
    """An interruption that came where Python can raise nothing, as within a fork or a destructor, comes again a little later."""
    timer = threading.Timer(0.05, os.kill, (os.getpid(), _number(lost)))
    timer.daemon = True
    timer.start()


def _leave(number: int, frame: FrameType | None) -> None:
    _print_error("interrupted")
    os._exit(128 + number)
