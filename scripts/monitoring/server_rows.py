"""The dashboard of the instances: state, traffic, errors, latency, saturation."""

from scripts.monitoring.panels import Panel, Query, Row
from scripts.monitoring.promql import PHOTOS, gauge, mean, quantile, quantiles, rate

STATE = Row(
    "State",
    [
        Panel(
            "Ready",
            "none",
            [Query(gauge("seefood_instance_ready"), "{{instance}}")],
            "Whether /readyz says so",
            "stat",
            6,
            4,
            limits=(1,),
            low_is_bad=True,
            words={"0": "not ready", "1": "ready"},
        ),
        Panel(
            "Release",
            "none",
            [Query(gauge("seefood_instance_release_served"), "{{instance}}")],
            "Whether all that the release document says is served",
            "stat",
            6,
            4,
            limits=(1,),
            low_is_bad=True,
            words={"0": "not served", "1": "served"},
        ),
        Panel(
            "Answered, of what could be",
            "percentunit",
            [Query(f"1 - {gauge('instance:seefood_failed:share2m')}", "{{instance}}")],
            "What clients do wrong and what was shed is in neither; 2 min",
            "stat",
            6,
            4,
            limits=(0.95, 0.99),
            low_is_bad=True,
        ),
        Panel(
            "Alerts",
            "short",
            [Query('count(ALERTS{job="seefood", alertstate="firing"}) or vector(0)', "firing")],
            "What each means: scripts/monitoring/README.md",
            "stat",
            6,
            4,
            limits=(1,),
        ),
    ],
)
TRAFFIC = Row(
    "Traffic",
    [
        Panel(
            "Photos by outcome",
            "reqps",
            [Query(rate("instance_outcome:seefood_door_outcomes:sum", "outcome"), "{{outcome}}")],
            "Failed: our fault. Shed: too much came at a time",
            stacked=True,
        ),
        Panel(
            "Photos by model",
            "reqps",
            [Query(rate("seefood_door_model_outcomes_total", "model, outcome"), "{{model}} {{outcome}}")],
            "As the panel before",
            stacked=True,
        ),
        Panel(
            "Requests by path",
            "reqps",
            [Query(rate("seefood_door_requests_total", "route"), "{{route}}")],
            "Health checks too; none: a path that leads nowhere",
            stacked=True,
        ),
        Panel(
            "Bytes",
            "Bps",
            [
                Query(rate("seefood_door_received_bytes_total", "job"), "bodies received"),
                Query(rate("seefood_door_sent_bytes_total", "job"), "answers sent"),
            ],
            "At the door",
        ),
    ],
)
ERRORS = Row(
    "Errors",
    [
        Panel(
            "Our failures and what was shed, by cause",
            "reqps",
            [Query(rate("seefood_door_outcomes_total", "outcome, cause", 'outcome!="answered"'), "{{outcome}} {{cause}}")],
            "The cause is the error's type, as clients get it",
            stacked=True,
        ),
        Panel(
            "Share of photos that failed",
            "percentunit",
            [Query(gauge("instance:seefood_failed:share2m"), "{{instance}}")],
            "Of those that could be answered, 2 min; the line is the alert's",
            limits=(0.05,),
        ),
        Panel(
            "Answers by status",
            "reqps",
            [Query(rate("seefood_door_requests_total", "status", PHOTOS), "{{status}}")],
            "To requests with photos; 4xx is what clients do wrong",
            stacked=True,
        ),
        Panel(
            "Photos that the worker refused",
            "reqps",
            [Query(rate("seefood_requests_total", "outcome", 'outcome!~"answered|explained"'), "{{outcome}}")],
            "Unreadable, too large, of a kind that is not read; busy: over the budget",
            stacked=True,
        ),
        Panel(
            "Connections that the door ended",
            "reqps",
            [Query(rate("seefood_door_ended_connections_total", "cause"), "{{cause}}")],
            "Slow and idle clients, and what found no room",
        ),
        Panel(
            "Restarts",
            "short",
            [
                Query(f"sum by (part) (increase({gauge('seefood_instance_restarts_total')}[$__rate_interval]))", "{{part}}"),
                Query(rate("seefood_door_retries_total", "job"), "photos asked again, a second"),
                Query(rate("seefood_decoder_deaths_total", "job"), "decoders that died, a second"),
            ],
            "Parts that were started again, and what it cost",
        ),
    ],
)
LATENCY = Row(
    "Latency",
    [
        Panel(
            "At the door",
            "s",
            quantiles("seefood_door_seconds", PHOTOS),
            "From a request's head to its answer; the upload too",
        ),
        Panel(
            "In the worker, p99",
            "s",
            [Query(quantile(0.99, f"seefood_{step}_seconds"), step) for step in ("decode", "inference", "handle")],
            "Decode: one photo. Inference and handle: one batch",
        ),
        Panel(
            "From the whole body to the answer",
            "s",
            quantiles("seefood_door_answer_seconds"),
            "Waiting and work, without the upload; the line is the alert's",
            limits=(2,),
        ),
        Panel(
            "From the whole body to the answer, by model, p99",
            "s",
            [Query(quantile(0.99, "seefood_door_model_answer_seconds", "model"), "{{model}}")],
            "Which model is slow, or waits for another",
        ),
        Panel(
            "At the door, all",
            "short",
            [Query(f"sum by (le) (increase({gauge('seefood_door_seconds_bucket', PHOTOS)}[$__rate_interval]))", "{{le}}")],
            "Photos by the seconds that they took",
            "heatmap",
            24,
        ),
    ],
)
SATURATION = Row(
    "Saturation",
    [
        Panel(
            "Requests",
            "short",
            [
                Query(f"sum({gauge('seefood_door_requests_in_flight')})", "in flight, uploads too"),
                Query(f"sum({gauge('seefood_door_running_requests')})", "at the worker"),
                Query(f"sum({gauge('seefood_door_waiting_requests')})", "waiting"),
            ],
            "The worker gets 16 at a time (SEEFOOD_WORKER_REQUESTS)",
        ),
        Panel(
            "Bytes of uploads",
            "bytes",
            [Query(gauge("seefood_door_bytes_in_flight"), "{{instance}}")],
            "Bodies that are held; from SEEFOOD_UPLOAD_BYTES on, 128 MB, the largest give way",
        ),
        Panel(
            "CPU that waits",
            "s",
            [Query(gauge("seefood_door_waiting_cpu_seconds"), "{{instance}}")],
            "Estimated; from 10 s on photos are shed (SEEFOOD_QUEUE_CPU_S)",
            limits=(5, 10),
        ),
        Panel(
            "Batch size, mean",
            "short",
            [Query(mean("seefood_batch_size", "instance"), "{{instance}}")],
            "8 is full (model-config.yaml)",
        ),
        Panel(
            "CPU",
            "cores",
            [Query(rate("seefood_instance_cpu_seconds_total", "part"), "{{part}}")],
            "Cores that each part uses: CPU seconds a second",
            stacked=True,
        ),
        Panel(
            "Memory",
            "bytes",
            [Query(f"sum by (part) ({gauge('seefood_instance_memory_bytes')})", "{{part}}")],
            "Resident; what processes share counts in each",
            stacked=True,
        ),
        Panel(
            "Disk",
            "bytes",
            [
                Query(gauge("seefood_instance_disk_free_bytes"), "{{instance}}: free"),
                Query(gauge("seefood_instance_disk_min_free_bytes"), "{{instance}}: needed to fetch an archive"),
            ],
            "Where the server writes",
        ),
        Panel(
            "Connections",
            "short",
            [Query(gauge("seefood_door_connections"), "{{instance}}")],
            "Open at the door",
        ),
    ],
)

ROWS = [STATE, TRAFFIC, ERRORS, LATENCY, SATURATION]
