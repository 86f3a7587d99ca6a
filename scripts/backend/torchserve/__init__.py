"""TorchServe 0.12.0 as a backend.

process.py        one TorchServe and its folder: start, stop
sockets.py        where it listens
native.py         netty's own code for Unix sockets, taken out of the jar
environment.py    what it and its workers find in their environment; which Java
guard.py          ends all its processes however the server ends
inference.py      photos to its inference API, for the door
handed.py         large photos as files beside its sockets
management.py     its management API, a function for each call
versions.py       load a version and have it prove itself; drain one and remove it
front_end.py      what its front end starts from
class_data.py     makes the archive of classes that Java maps
frontend_patch.py why and how its front end is patched
log4j2.xml        its logs
without_torch/    stands in for torch in workers that need none, without_kill/ for kill
Its settings are in config.properties at the root, the model's workers and batches in handler/model-config.yaml.
"""
