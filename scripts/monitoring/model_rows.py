"""The dashboard of the model: its versions side by side, and what they answer, and drift."""

from scripts.monitoring.panels import Panel, Query, Row
from scripts.monitoring.promql import gauge, mean, quantile, rate, rises

LAST_500 = 'window="500"'

VERSIONS = Row(
    "Versions side by side",
    [
        Panel(
            "Loaded versions",
            "none",
            [Query(f"sum by (model, version, default) ({gauge('seefood_instance_version')})", "")],
            "And on how many instances; default: which answers where none is named",
            "table",
        ),
        Panel(
            "Answers",
            "reqps",
            [Query(rate("seefood_requests_total", "model, version", 'outcome="answered"'), "{{model}} {{version}}")],
            "By version",
        ),
        Panel(
            "Errors of the worker",
            "reqps",
            [
                Query(
                    rate("seefood_requests_total", "model, version, outcome", 'outcome=~"failed|busy"'),
                    "{{model}} {{version}} {{outcome}}",
                )
            ],
            "By version",
        ),
        Panel(
            "A batch, p99",
            "s",
            [Query(quantile(0.99, "seefood_handle_seconds", "model, version"), "{{model}} {{version}}")],
            "By version",
        ),
        Panel(
            "Inference, mean",
            "s",
            [Query(mean("seefood_inference_seconds", "model, version"), "{{model}} {{version}}")],
            "A batch, by version",
        ),
        Panel(
            "Share of unsure answers",
            "percentunit",
            [
                Query(
                    f"{rate('seefood_unsure_total', 'model, version')} "
                    f"/ {rate('seefood_top1_probability_count', 'model, version')}",
                    "{{model}} {{version}}",
                )
            ],
            'Answers with "sure": false; the line is the alert\'s',
            limits=(0.3,),
        ),
    ],
)
ANSWERS = Row(
    "What is answered",
    [
        Panel(
            "Probability of the first class",
            "percentunit",
            [
                Query(
                    quantile(share, "seefood_top1_probability", "model, version"), f"{{{{model}}}} {{{{version}}}} p{100 * share:g}"
                )
                for share in (0.1, 0.5, 0.9)
            ],
            "Calibrated: of answers with 0.8 some 80 % are right, as long as photos are like those of the training",
            width=12,
        ),
        Panel(
            "Probability of the first class, all",
            "short",
            [Query(f"sum by (le) (increase({gauge('seefood_top1_probability_bucket')}[$__rate_interval]))", "{{le}}")],
            "Answers by that probability",
            "heatmap",
            12,
        ),
        Panel(
            "Classes",
            "short",
            [Query(f"topk(20, {rises('seefood_predictions_total', 'model, label')})", "{{model}} {{label}}")],
            "The most frequent ones over the time that is shown",
            "bargauge",
            12,
            10,
        ),
        Panel(
            "Classes over time",
            "percentunit",
            [
                Query(
                    f"topk(10, {rate('seefood_predictions_total', 'model, label')} "
                    f"/ ignoring (label) group_left {rate('seefood_predictions_total', 'model')})",
                    "{{model}} {{label}}",
                )
            ],
            "Share of the model's answers; the ten most frequent ones at each time",
            width=12,
            height=10,
        ),
    ],
)

DRIFT = Row(
    "Drift from the reference profile",
    [
        Panel(
            "Drift by signal, last 500 answers",
            "none",
            [Query(f"max by (model, version, signal) ({gauge('seefood_drift', LAST_500)})", "{{model}} {{version}} {{signal}}")],
            "-log10 of a p-value, the worst instance; the line is the alert's",
            width=12,
            limits=(4,),
        ),
        Panel(
            "Estimated accuracy",
            "percentunit",
            [
                Query(
                    f"avg by (model, version, window) ({gauge('seefood_estimated_accuracy')})",
                    "{{model}} {{version}} last {{window}}",
                )
            ],
            "Mean calibrated probability; where photos have drifted it may be wrong either way",
            width=12,
        ),
    ],
)

ROWS = [VERSIONS, ANSWERS, DRIFT]
