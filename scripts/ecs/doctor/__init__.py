"""Why a deployment is unhealthy: `python -m scripts.ecs.doctor.doctor NAME`.

service_state.py reads the service and what surrounds it; causes.py turns that state into findings, with history.py (rollbacks,
steady states, failed activities) and reasons.py (messages of ECS; the tables are messages_of_tasks.py and messages_of_services.py).
ecs/deploy imports these, to explain a deployment that fails; doctor imports nothing of deploy.
"""
