"""What the TorchServe worker imports, and nothing else: numpy, Pillow, OpenVINO and the standard library."""
