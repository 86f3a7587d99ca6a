"""Photos: from folders on a disk to batches for training and evaluation.

sets.py reads a data set: photo_folders.py tells its photos, layouts.py, split_names.py and label_lists.py its splits and
classes, split.py which photos are held out, duplicates.py what counts as a near-duplicate, by thumbnail.py and among the pairs
of neighbours.py. given.py and selection.py are which new photos to take, loader.py the augmentation and the batches, workers.py
the processes that make them, pictures.py generated pictures. Commands: download, ingest, measure_duplicates, prepare, remote.
Everything else in training/ may import this room; it imports handler/, training/params.py, training/tracking/provenance.py and
the leaves of scripts/.
"""
