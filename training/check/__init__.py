"""What may be wrong in a data set: labels, near-duplicates, outliers, bad photos, small classes.

Command: check (`make check-data`). features.py is by which weights photos are compared, labels.py which labels are likely wrong,
photos.py what is measured of each photo, findings.py what is found, page.py shows it. It imports the rooms data, evaluation and
weights, and model.py; nothing imports it.
"""
