"""Asking strangers' servers for photos: politely, and none that is not on the public internet.

addresses.py    which URLs may be asked, and the IP addresses that a host's name stands for
connection.py   one request to exactly these IP addresses, within bounds of bytes and time
client.py       a request a second for each host, robots.txt, Retry-After, redirects
"""
