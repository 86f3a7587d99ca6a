"""New photos from a source into a dated batch, for review: `make collect`.

batch.py      the format of a batch: its writer and its reader
Imports the rooms below it.
"""
