"""Text that Python writes on standard error, as steps: each message is one of them, and a traceback is a field of its message's.

A message is complete when the next one begins, at a flush, at the process's end, or IDLE_S after its last piece: nothing waits for
a newline or a flush that never comes. Leaves out what is written to file descriptor 2 past Python.
"""

import atexit
import io
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from scripts.steps import Steps

# with which Python begins a message of several lines; it ends with the first line that is neither one nor indented
BEGINS = re.compile(
    r"Exception (in|ignored)|Traceback \(|During handling of|The above exception"
    r"|Fatal Python error|(Current t|T)hread 0x|\s*\+ Exception"
)
ERROR = "error: "  # scripts/command.py's, with lines of TorchServe's log in it: up to the flush
IDLE_S = 2.0
# of a message: its first line and the last others; characters of a line, and of all lines
MOST_LINES, MOST_LINE, MOST_TEXT = 200, 4096, 64 * 1024


class Messages:
    """The messages in text that comes in pieces, of whatever length, without keeping more of one than the limits above."""

    def __init__(self) -> None:
        self._part = ""  # of a line
        self._first = ""
        self._others: deque[str] = deque()
        self._length = self._left_out = 0

    def write(self, text: str) -> Iterator[str]:
        """The messages that this piece ends."""
        *lines, rest = text.split("\n")
        for line in lines:
            whole, self._part = self._part + line[:MOST_LINE], ""
            yield from self.add(whole.rstrip("\r"))
        self._part = (self._part + rest[:MOST_LINE])[:MOST_LINE]

    def add(self, line: str) -> Iterator[str]:
        """The messages that this line ends: the one before, if it begins another, and its own where it is a traceback's last."""
        line = line[:MOST_LINE]
        begins, goes_on = BEGINS.match(line), not line.strip() or line[0] in " \t"
        if self._first and BEGINS.match(self._first):
            self._keep(line)
            if not (begins or goes_on):
                yield from self._take()
            return
        if begins or not (goes_on or self._first.startswith(ERROR)) or line.startswith(ERROR):
            yield from self._take()
        if line.strip() or self._first:
            self._keep(line)

    def end(self) -> Iterator[str]:
        """What is left, when nothing more comes."""
        line, self._part = self._part, ""
        if line:
            yield from self.add(line)
        yield from self._take()

    def __bool__(self) -> bool:
        """Whether anything waits for its end."""
        return bool(self._part or self._first)

    def _keep(self, line: str) -> None:
        if not self._first:
            self._first = line
            return
        self._others.append(line)
        self._length += len(line)
        while len(self._others) >= MOST_LINES or self._length > MOST_TEXT - MOST_LINE:
            self._length -= len(self._others.popleft())
            self._left_out += 1

    def _take(self) -> Iterator[str]:
        left_out = [f"  ... {self._left_out} lines left out"] if self._left_out else []
        text = "\n".join([self._first, *left_out, *self._others]).rstrip()
        self._first, self._length, self._left_out = "", 0, 0
        self._others.clear()
        if text:
            yield text


class PlainText:
    """Gives each message to `log`, soon after it was written. Safe to call from threads, whose messages are kept apart."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._lock = threading.RLock()  # a destructor that fails may write within a write
        self._of: dict[int, tuple[Messages, float]] = {}  # by the thread's id, with the time of its last piece
        self._watched = False

    def write(self, text: str) -> None:
        """Log the messages that this piece ends, and keep its rest."""
        thread = threading.get_ident()
        with self._lock:
            messages = self._of.get(thread, (Messages(), 0.0))[0]
            found = list(messages.write(text))
            self._of.pop(thread, None)
            if messages:
                self._of[thread] = messages, time.monotonic()
                self._watch()
        self._log_all(found)

    def flush(self) -> None:
        """Log what this thread, and those that have ended, have written."""
        here, alive = threading.get_ident(), {thread.ident for thread in threading.enumerate()}
        self._end(lambda thread, _: thread == here or thread not in alive)

    def end(self) -> None:
        """Log all that is left."""
        self._end(lambda *_: True)

    def _end(self, which: Callable[[int, float], bool]) -> None:
        with self._lock:
            ended = [self._of.pop(thread)[0] for thread, (_, at) in list(self._of.items()) if which(thread, at)]
            found = [message for messages in ended for message in messages.end()]
        self._log_all(found)

    def _log_all(self, messages: list[str]) -> None:
        for message in messages:
            self._log(message)

    def _watch(self) -> None:
        if not self._watched:
            try:
                threading.Thread(target=self._end_idle, name="plain text", daemon=True).start()
                self._watched = True
            except RuntimeError:  # no room for a thread, or Python ends: the next piece tries again, or the end logs it
                pass

    def _end_idle(self) -> None:
        while True:
            time.sleep(IDLE_S / 4)
            now = time.monotonic()
            self._end(lambda _, at: now - at >= IDLE_S)  # noqa: B023 it is called at once
            with self._lock:
                if not self._of:
                    self._watched = False
                    return


def fields_of(message: str) -> dict[str, str]:
    """The details of a step: what happened in one line, and all of it if it is longer."""
    *others, last = message.split("\n")
    first = (others or [last])[0]
    if not others:
        return {"why": message.removeprefix(ERROR)}
    return {"why": last.strip() if BEGINS.match(first) else first.removeprefix(ERROR), "traceback": "\n" + message}


class ErrorSteps(io.TextIOBase):
    """A standard error of which each message becomes a step `error`."""

    def __init__(self, steps: Steps) -> None:
        self._text = PlainText(lambda message: steps("error", **fields_of(message)))
        atexit.register(self._text.end)  # Python's own flush at the end is one of the main thread alone

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Take the text; each message is logged when it is complete."""
        self._text.write(text)
        return len(text)

    def flush(self) -> None:
        """Log what this thread has written."""
        self._text.flush()
