"""The HTTP server that people and programs meet, with TorchServe behind it.

http/   the protocol: what a request is, how long it may take, how many connections there may be
serving runs it; nothing of it is for the worker.
"""
