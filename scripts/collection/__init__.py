"""New photos from a source into a dated batch, for review: `make collect`.

collect.py   the command
choose.py    which source SOURCE means;  source.py  what a source is;  sources/  a file for each
web/         asking strangers' servers, politely and safely
check.py     a photo as the server checks it, stripped
batch.py     the format of a batch: its writer and its reader
seen.py      what earlier runs have looked at
Imports the rooms below it; of predict its photos, folders and S3.
"""
