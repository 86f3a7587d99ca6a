"""Starting weights: a file or a run as tensors, and which of them a network takes over.

No command; training/model.py imports it. hub.py is for weights that timm downloads.
"""
