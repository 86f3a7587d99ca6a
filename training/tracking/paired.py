"""Two models on the same photos: difference, interval, exact McNemar test, and the verdict."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from scipy.stats import binomtest

from scripts.phrases import counted

ALPHA = 0.05
POWER = 0.8  # with this probability the number of photos named would show a difference of the size seen


@dataclass(frozen=True)
class Paired:
    """Photos that two models classified: all, those that only the challenger has right, those that only the champion has."""

    photos: int
    gained: int
    lost: int

    @property
    def points(self) -> float:
        """Top-1 of the challenger less that of the champion, in percentage points."""
        return 100 * (self.gained - self.lost) / self.photos

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `points`: Wald's with half a photo added to each of the four counts (doi:10.1002/sim.1781)."""
        n, z = self.photos + 2, NormalDist().inv_cdf(0.975)
        centre = (self.gained - self.lost) / n
        reach = z * math.sqrt((self.gained + self.lost + 1) / n - centre**2) / math.sqrt(n)
        # cut off where it leaves what is possible, as Wald's may
        return 100 * max(-1.0, centre - reach), 100 * min(1.0, centre + reach)

    @property
    def p_value(self) -> float:
        """Two-sided exact McNemar test: how often a fair coin divides those photos at least as unevenly."""
        return float(binomtest(self.gained, self.gained + self.lost).pvalue) if self.gained + self.lost else 1.0

    def photos_needed(self, alpha: float) -> int:
        """Photos on which a difference of this size, not 0, shows with probability POWER (doi:10.2307/2531961)."""
        apart, difference = (self.gained + self.lost) / self.photos, (self.gained - self.lost) / self.photos
        z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(POWER)
        return math.ceil((z_alpha * math.sqrt(apart) + z_power * math.sqrt(max(0.0, apart - difference**2))) ** 2 / difference**2)


def why_not(paired: Paired, alpha: float) -> str:
    """Why the challenger does not become champion; "" if it does."""
    if paired.gained <= paired.lost:
        return "it is not better than the champion"
    if paired.p_value < alpha:
        return ""
    # even if the challenger wins all n photos on which the two differ, p is 2 ** (1 - n): below `least` no result is enough
    differing, least = paired.gained + paired.lost, math.floor(1 - math.log2(alpha)) + 1
    if differing < least:
        reason = f"too few photos: the two models differ on {differing}, and p < {alpha:g} takes at least {least}"
    else:
        reason = f"the difference may be chance: p = {paired.p_value:.3g}, not below {alpha:g}"
    return f"{reason}; about {counted(paired.photos_needed(alpha), 'photo')} would show such a difference four times in five"


def beside_chance(right: int, photos: int, chance: float, alpha: float) -> tuple[str, float]:
    """(why a model without a champion is not taken, "" if it is; p of the exact binomial test against a constant answer)."""
    p_value = float(binomtest(right, photos, chance, "greater").pvalue)
    return "" if p_value < alpha else f"it is not better than chance: p = {p_value:.3g}, not below {alpha:g}", p_value
