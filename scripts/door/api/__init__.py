"""What the door says of itself (openapi.py, the page at /docs), and TorchServe's management API for people and their scripts."""
