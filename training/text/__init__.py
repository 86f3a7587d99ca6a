"""Words beside the photos: a text tower, its fusion with timm's network, and what training drops of either.

A data set whose list has texts trains one model on both (handler/text.py makes ids of a text, in training as in the worker). The
towers meet in their logits alone, so each side answers without the other. May be imported by training's loader, model and loop.
"""
