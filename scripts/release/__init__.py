"""The release document, the single truth of what is served, and the stores that hold it with its archives and statuses.

document.py            the document, of one model or several: read, made and checked by its schema; which instances are canaries
store.py               what a store does; folder_store.py and s3_store.py are the two kinds, address.py picks one
fetch.py               an archive from a store onto this machine
status.py              the instances that report beside a document; tables for people

Has no command. Imported by serving (reconciles TorchServe to the document), rollout (writes it) and ecs (writes the first one).
"""
