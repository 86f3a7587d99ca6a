"""Sends a run's journal while the run trains; journal.Tracker starts this: `python -m training.tracking.follow runs/X`.

It ends when stdin says `end`, or when the process that started it has ended. A store that is down or slow is retried, with
pauses that grow; a record that it rejects is named on stderr and left out.
"""

import math
import os
import select
import sys
import time
from pathlib import Path

from scripts.command import parser, run
from training.tracking.sender import Sender
from training.tracking.store import CLOSE_S, JOURNAL, is_final, public, reason_of, records_left, say, tracking_uri

POLL_S, RETRY_S, MAX_RETRY_S = 0.3, 1.0, 30.0


def follow(sender: Sender) -> None:
    """Send a journal as it grows, until its writer has ended and all is sent, or CLOSE_S have passed since."""
    writer, address = os.getppid(), public(sender.uri)
    failures, stop_at = 0, math.inf
    while time.monotonic() < stop_at:
        ended = stop_at < math.inf
        try:
            sender.send_all()
            if failures:
                say(f"{address} is reachable again")
            failures = 0
            if ended:
                return sender.finish()
        except BlockingIOError:  # another process sends them
            if ended and not records_left(sender.folder, sender.uri):
                return None
        except Exception as error:  # MLflow, SQLAlchemy, boto3 and requests raise types of their own; none may end this
            if not failures:
                later = f"records wait in {JOURNAL} and are sent once it can be reached, or by make track"
                say(f"cannot send to {address} ({reason_of(error, sender.uri)}): training goes on, {later}")
            failures += 1
            if ended and is_final(error):
                return None
        pause_s = min(RETRY_S * 2 ** min(failures, 9), MAX_RETRY_S) if failures else POLL_S
        if ended:
            time.sleep(min(pause_s, RETRY_S))
        # two signs, as a loader's worker may hold the writer's end of the pipe open
        elif select.select([sys.stdin], [], [], pause_s)[0] or os.getppid() != writer:
            stop_at = time.monotonic() + CLOSE_S
    return None


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path, help="folder of a run")
    with Sender(arguments.parse_args().run, tracking_uri()) as sender:
        follow(sender)


if __name__ == "__main__":
    sys.exit(run(main))
