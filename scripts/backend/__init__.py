"""What loads the models and answers their requests, behind the server of scripts/serving.

A backend can: predict, explain and describe; load a version, report whether it is ready, make it the default version, drain
it and unload it. TorchServe is the only one so far (torchserve/). There is no abstract class yet: it comes with the second.
No command. serving and rollout may import it; it imports the leaves of scripts alone.
"""
