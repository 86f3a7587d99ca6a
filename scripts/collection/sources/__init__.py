"""Where photos come from, a file and a class (scripts/collection/source.py) for each; choose.py has the table of them.

folder.py     a folder, or a prefix on S3
captured.py   photos that a server kept, with answers and feedback, in a folder or on S3
urls.py       a CSV of addresses on the web
reddit.py     the photos of a subreddit: an example of a source that needs an account
"""
