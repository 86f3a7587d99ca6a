"""The HTTP server that people and programs meet; TorchServe stands behind it. forms.py turns a request's body into photos.

For scripts.serving, which starts it. Imports backend, settings and what lies below them.
"""
