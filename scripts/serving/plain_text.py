"""Text that Python writes on standard error, as steps: each message is one of them, and a traceback is a field of its message's."""

import io
import re
from collections.abc import Iterator

from scripts.steps import Steps

# with which Python and uvicorn begin a message of several lines; it ends with the first line that is neither one nor indented
BEGINS = re.compile(
    r"Exception (in|ignored)|Traceback \(|During handling of|The above exception"
    r"|Fatal Python error|(Current t|T)hread 0x|\s*\+ Exception"
)


class Messages:
    """The messages in lines that come one after the other."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> Iterator[str]:
        """The message that this line ends, if any."""
        if BEGINS.match(line) or (self._lines and (not line.strip() or line[0] in " \t")):
            self._lines.append(line)
            return
        self._lines.append(line)
        yield from self.end()

    def end(self) -> Iterator[str]:
        """What is left, when no more lines come."""
        text, self._lines = "\n".join(self._lines).strip("\n"), []
        if text:
            yield text


def fields_of(message: str) -> dict[str, str]:
    """The details of a step: what happened in one line, and all of it if it is longer."""
    *others, last = message.split("\n")
    first = (others or [last])[0]
    if not others:
        return {"why": message.removeprefix("error: ")}
    return {"why": last if BEGINS.match(first) else first.removeprefix("error: "), "traceback": "\n" + message}


class ErrorSteps(io.TextIOBase):
    """A standard error of which each message, complete when it is flushed, becomes a step `error`."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self._text = steps, ""

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Keep the text until the flush."""
        self._text += text
        return len(text)

    def flush(self) -> None:
        """Log what has been written."""
        messages, text = Messages(), self._text.strip("\n")
        self._text = ""
        if text.startswith("error: "):  # scripts/command.py's, with TorchServe's last lines in it
            self.steps("error", **fields_of(text))
            return
        for message in [one for line in text.split("\n") for one in messages.add(line)] + list(messages.end()):
            self.steps("error", **fields_of(message))
