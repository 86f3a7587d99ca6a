"""Stands in for torch in a worker that has none installed.

TorchServe's worker imports torch to recognise one kind of answer, torch.Tensor, which our handler never gives. The real
one would be over 4 GB to install for that. serve.py puts this folder on the worker's path only where there is no torch.
"""


class Tensor:
    """What no answer of ours is an instance of."""
