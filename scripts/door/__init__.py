"""The door: the one HTTP server that people and programs meet. It turns whatever they send into a photo's bytes for the backend.

    door.py         the process: `python -m scripts.door.door`, started and watched by serve
    http/           HTTP itself: heads, bodies, time-outs, connections
    app.py          routes and errors
    access/         who may ask, and how often;  addresses.py  whom an address belongs to
    api/            /openapi.json, the management API
    forms/          a request's body -> photos
    pages.py        the pages for people, files of web/;  feedback.py  what they say that a photo shows
    protocols/      those of others
    predictions.py  a photo -> the backend's answer; admission.py: when it is its turn; in_flight.py: what ends a request early
    unverified.py   a request to a model whose archive is not ours;  shares.py  what several models share
    log.py          the access log;  metrics.py, times.py  what is counted and measured;  tracing/  spans for a collector

Not imported by anything else in scripts.
"""
