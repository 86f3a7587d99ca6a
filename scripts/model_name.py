"""The model's name: it is registered, archived, released and served under it. Imported by training, too.

Not timm's name of the network, which params.yaml holds.
"""

import re

MODEL_NAME = r"[a-z][a-z0-9_-]*"


def check_model_name(name: str) -> str:
    """The name, which goes into file names, addresses and labels of metrics. ValueError unless it suits them all."""
    if not re.fullmatch(MODEL_NAME, name):
        raise ValueError(f"model name is {name!r}, expected lower-case letters, digits, _ and -, a letter first, e.g. flowers")
    return name
