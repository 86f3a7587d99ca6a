"""What the TorchServe worker imports, and nothing else: numpy, Pillow, the runtime, prometheus_client and the standard library."""
