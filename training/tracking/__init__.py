"""A run's records and its model in MLflow: written to disk beside training, sent by a process of their own.

Commands: track (send what is left of a run), ui (MLflow's pages), promote (challenger against champion), follow (started by
a Tracker, not by people). Others import four of its leaves: record.py, evaluation and the sweep journal.Tracker; record.py
machine; run.py, record.py and data/ingest.py provenance; run.py, export and the sweep store. The rest belongs to this room.
"""
