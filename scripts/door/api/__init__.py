"""What the door says of itself, and the way to TorchServe's management API.

openapi.py makes /openapi.json of the tables in operations.py, schemas.py and statuses.py; management.py is the
API at PORT+1 on loopback, for people on this machine and their scripts.
"""
