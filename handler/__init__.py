"""The worker's code: what TorchServe runs of ours, packed into every archive by scripts/archive/build.py.

seefood_handler.py is TorchServe's entry; a photo then passes request, photo_file, preprocess, program and, for heat maps, explain.
Imports numpy, Pillow, the export format's library and prometheus_client, and nothing of training/ or scripts/, both of which
may import it: preprocess.py and program.py are shared with training, so that both see the same crop.
"""
