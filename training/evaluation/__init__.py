"""How good a checkpoint is: metrics, tables and plots on held-out photos, and one HTML page of them.

held_out.py chooses the photos, metrics.py computes, tables.py and plots.py write, confidence.py scores how certain an answer
is. Commands: evaluate (make evaluate), report (make report). The training loop, training/export and
training/tracking import the leaves; this room imports training/data, training/model.py and training/tracking.
"""
