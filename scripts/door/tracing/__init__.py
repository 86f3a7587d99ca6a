"""Traces by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector; elsewhere nothing of it is imported.

start.py     what the environment asks for, or nothing
spans.py     a request that is over -> its spans
exporter.py  spans to the collector, by a thread that holds up no request
"""
