"""The figures of a step of load, and whether they measure the server or the load generator."""

import math
from collections import Counter
from dataclasses import dataclass, field

PERCENTILES = (50, 90, 99, 99.9)
# From here on the generator itself is what is measured: it computes for this share of the time ...
BUSY_SHARE = 0.8
# ... or acts so late, in shares of the median latency and in ms.
LATE_SHARE, LATE_MS = 0.2, 1.0


@dataclass
class Result:
    """The figures of one step of load. Latencies in ms, of the requests that were due in the measured time and answered 2xx."""

    mode: str  # "closed" or "open"
    setting: float  # connections, or requests/s
    seconds: float
    latencies_ms: list[float] = field(default_factory=list)  # sorted
    answered: int = 0  # 2xx that came in within the measured time
    errors: Counter[str] = field(default_factory=Counter)  # by status, or refused, reset, timed out, unreachable, not HTTP
    first_error: str = ""
    cpu_share: float = 0.0  # of one core, used by the load generator
    busy_share: float = 0.0  # of the time in which the load generator had work, whether or not it got a core for it
    late_ms: float = 0.0  # how late the load generator's own timer fires, on average

    @property
    def throughput(self) -> float:
        """2xx answers/s."""
        return self.answered / self.seconds

    def percentile(self, percent: float) -> float:
        """The latency that so many percent of the answers do not exceed (nearest rank), NaN without answers."""
        if not self.latencies_ms:
            return math.nan
        return self.latencies_ms[max(0, math.ceil(percent / 100 * len(self.latencies_ms)) - 1)]

    def bottleneck(self) -> str:
        """Why these figures measure the load generator and not the server; empty if they do not."""
        if max(self.busy_share, self.cpu_share) > BUSY_SHARE:
            return f"it was busy for {self.busy_share:.0%} of the time, with {self.cpu_share:.0%} of a core"
        median = self.percentile(50)
        if self.late_ms > max(LATE_MS, LATE_SHARE * median):
            return f"it acts {self.late_ms:.1f} ms late, and the median answer takes {median:.1f} ms"
        return ""
