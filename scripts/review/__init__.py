"""A local page to label the photos of a batch: `make review`.

review.py        the command: a batch in, a CSV `path,label` out
items.py         the photos of a batch, with what is known of each;  order.py  which come first
answers.py       what an archive answers to them, and its features;  answering.py  a process of its own that asks it
decisions.py     what was decided: a journal, and the CSV
server.py        the page's server, on loopback alone;  page/  its files
label_studio.py  tasks and annotations of Label Studio
Imports the rooms below it; none of them imports it.
"""
