"""Photos: from folders on a disk to batches for training and evaluation.

sets.py reads a data set: photo_folders.py tells its photos, layouts.py the splits and classes of folders,
listed.py those of lists; label_lists.py reads one list, by list_text.py (its encoding), list_table.py (its rows),
list_columns.py, extras.py and photo_names.py; folders_or_lists.py chooses between folders and lists; foreign.py names files
that are not read. split.py chooses which photos are held out, duplicates.py what counts as a near-duplicate, by thumbnail.py and
among the pairs of neighbours.py. given.py and selection.py are which new photos to take, balance.py how often each photo is drawn
and how much it counts, loader.py the augmentation and the batches, workers.py the processes that make them, pictures.py
generated pictures, published.py the sets that have a name, tensors.py photos saved as tensors. Commands: ingest,
measure_duplicates, obtain, prepare, remote. Everything else in training/ may import this room; it imports handler/,
training/params.py, training/recipes/choose.py, training/text/dropout.py, training/tracking/provenance.py and the leaves of
scripts/.
"""
