"""Labels for any number of photos, by an archive's own handler or by a server: `make predict`.

predict.py       the command: photos in, a table out
sources.py       which photos: a folder, s3://, a list (lists.py);  photo.py, bucket.py  the bytes of one
offline.py       answers of an archive's handler, in this process;  in_order.py  work ahead
server.py        those of a server;  answer.py  what one response means
journal.py       the part file: rows that are there already, so that a run that was killed goes on
out.py           where the table goes, whole or not at all;  tables.py  CSV, JSON lines, Parquet
progress.py      how far it is;  summary.py  what failed, and why
sheet.py         the contact sheet, HTML=1;  sheet.css, thumbnails.py, chosen.py  its parts
Imports the rooms below it. scripts/collection reads its sources and S3.
"""
