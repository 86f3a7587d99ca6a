"""A run's records and its model in MLflow: written to disk beside training, sent by a process of their own.

Commands: track (send what is left of a run), ui (MLflow's pages), promote (challenger against champion), follow (started by
a Tracker, not by people). The training loop, evaluation and the sweep use journal.Tracker; the rest belongs to this room.
"""
