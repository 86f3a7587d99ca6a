"""The queries of the dashboards, in PromQL. Grafana fills in `$instance`, `$__rate_interval` and `$__range`."""

from scripts.monitoring.panels import Query

SELECTED = 'job="seefood", instance=~"$instance"'
PHOTOS = 'route=~"/predictions/.*|/explanations/.*|/invocations|.*/infer|.*:predict|.*:explain"'  # as in recording.yml


def rate(metric: str, by: str, where: str = "", window: str = "$__rate_interval") -> str:
    """The metric's rise a second, summed by these labels."""
    return f"sum by ({by}) (rate({metric}{{{SELECTED}{', ' if where else ''}{where}}}[{window}]))"


def rises(metric: str, by: str) -> str:
    """How much the metric has risen over the whole time that is shown."""
    return f"sum by ({by}) (increase({metric}{{{SELECTED}}}[$__range]))"


def gauge(metric: str, where: str = "") -> str:
    """The metric itself."""
    return f"{metric}{{{SELECTED}{', ' if where else ''}{where}}}"


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """The value that this share of a histogram's observations does not exceed."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', labels, where)})"


def mean(histogram: str, by: str) -> str:
    """The mean of a histogram's observations."""
    return f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}"


def quantiles(histogram: str, where: str = "") -> list[Query]:
    """Median, p95 and p99."""
    return [Query(quantile(share, histogram, where=where), f"p{100 * share:g}") for share in (0.5, 0.95, 0.99)]
