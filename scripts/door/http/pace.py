"""How fast bytes move, where a least rate is asked of the client."""


class Pace:
    """Bytes that moved within a window of time; a window begins where the last one ended. What we hold up does not count."""

    __slots__ = ("moved", "paused_at", "since")

    def __init__(self) -> None:
        self.since = 0.0
        self.moved = 0
        self.paused_at: float | None = None

    def start(self, now: float) -> None:
        """Begin a window."""
        self.since, self.moved, self.paused_at = now, 0, None

    def pause(self, now: float) -> None:
        """Stop its clock."""
        if self.paused_at is None:
            self.paused_at = now

    def resume(self, now: float) -> None:
        """Let its clock go on."""
        if self.paused_at is not None:
            self.since += now - self.paused_at
            self.paused_at = None

    def is_slow(self, now: float, rate: float, window_s: float) -> bool:
        """Whether the window is over and less than `rate` bytes per second moved in it."""
        if self.paused_at is not None or now - self.since < window_s:
            return False
        slow = self.moved < rate * (now - self.since)
        self.start(now)
        return slow
