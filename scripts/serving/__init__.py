"""One instance: a TorchServe that is kept running and follows a release document.

serve.py          the command, `python -m scripts.serving.serve` (make serve, make stop)
server.py         all its parts, wired
supervisor.py     runs TorchServe, restarts it, announces it, stops it
door.py           runs scripts/door before it, tells it what is served, restarts it
desired.py        what shall be served: the release document, polled
own_document.py   the document that a server writes itself, where nobody has rolled anything out
instance.py       what is served, and one pass of reconciling it with what shall be;  served_model.py, loading.py  of one model
health.py         what /livez and /readyz say;  model_health.py  of one model
metrics.py        /metrics;  worker_files.py  what workers count, by model;  http_server.py  its server
instance_metrics.py  what /metrics says of the instance itself
probe.py          a golden photo on its way, which readiness rests on
repair.py         restarts what hangs, and undoes what was changed by hand
reporter.py       the instance's status, beside the release document
cloudwatch.py     the same figures as /metrics, logged each minute for CloudWatch
plain_text.py     what Python writes on standard error, as steps: soon, whole, thread by thread
healthcheck.py    a command of its own, which the image's HEALTHCHECK runs
captured.py       where captured photos are kept;  shadow.py  two versions compared on them
capture_uploads.py  captured photos on their way to S3;  capture_store.py  what lies there;  capture_socket.py  feedback on them
ports.py          whether the ports are free
bench and ecs may import it; rollout meets it through the release document alone.
"""
