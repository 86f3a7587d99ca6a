"""From photos to an exported program: data, train, evaluate, export. Needs the `train` extra."""
