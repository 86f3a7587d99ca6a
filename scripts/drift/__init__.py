"""Whether the photos and answers of today are still those of the reference profile: statistics over rows of handler/signals.py.

Imports handler alone. The server shows them as metrics (scripts/serving/drift.py), `make drift` as a table.
"""
