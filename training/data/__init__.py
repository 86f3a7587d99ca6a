"""Photos: from folders on a disk to batches for training and evaluation.

duplicates.py is what counts as a near-duplicate, by thumbnail.py and among the pairs of neighbours.py; split.py which photos are
held out, sets.py the layouts of data sets, selection.py which new photos to take, loader.py the augmentation and the batches,
pictures.py generated pictures. Commands: download, ingest, measure_duplicates, prepare, remote. Everything else in training/ may
import this room; it imports handler/, training/params.py, training/tracking/provenance.py and the leaves of scripts/.
"""
