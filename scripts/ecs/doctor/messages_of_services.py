"""Messages of ECS's scheduler about a service: the cause behind each, and what to do. Data only; reasons.py reads it."""

from scripts.ecs.doctor.messages_of_tasks import AGAIN, ASSUME, MATCH, ROLE, ROUTE, Reason

# within a scope the first pattern counts; the last of a scope has none and is for whatever else it says
SERVICES = (
    # --- a deployment that ECS gave up: the stopped tasks and alarms say why ---
    Reason(
        "rollback",
        r"alarm",
        "an alarm went off during the deployment, and ECS undid it",
        "the alarm's name says what it saw: errors, latency or too few ready tasks; then the tasks' log",
    ),
    Reason(
        "rollback",
        "",
        "the tasks of the deployment fail again and again",
        "see why they stopped, below; ECS undoes a deployment that was never ready",
    ),
    # --- no place for a task ---
    Reason(
        "placement",
        r"reached the limit|above your limit|[Qq]uota|VcpuLimit|current (vCPU )?limit",
        "a quota of the account does not allow another task or instance",
        "raise it in Service Quotas (Amazon ECS, EC2), or lower MaxTasks and MaxInstances",
    ),
    Reason(
        "placement",
        r"RESOURCE:ENI|\bENI|network interface|attachment points",
        "no instance has a free network interface: each task takes one, and a small instance has only two for tasks",
        "use larger instances (InstanceType) or more (MaxInstances), or enable awsvpcTrunking for the account before they start",
    ),
    Reason(
        "placement",
        r"RESOURCE:PORT|already using a port|reserved port limit|too many ports",
        "the port of the task is already in use on every instance",
        "set the network mode to awsvpc, where each task has its own ports",
    ),
    Reason(
        "placement",
        r"RESOURCE:(MEMORY|CPU|GPU)|: RESOURCE\b(?!:)|insufficient (memory|CPU units|GPU)|enough (memory|CPU units|GPU)",
        "no instance has enough free CPU, memory or GPUs for a task",
        "allow more instances (MaxInstances), use larger ones (InstanceType), or a smaller task (TaskMemory, TaskCpu); "
        "during a deployment old and new tasks must fit at the same time",
    ),
    Reason(
        "placement",
        r"\bAGENT\b|agent.*disconnected",
        "ECS has no connection to the agent of an instance",
        f"replace the instance; if all are affected, {ROUTE}",
    ),
    Reason(
        "placement",
        r"ATTRIBUTE|missing an attribute|[Mm]emberOf|constraint",
        "no instance meets the task definition's requirements, such as architecture or GPU",
        MATCH,
    ),
    Reason(
        "placement",
        r"No Container Instances were found|EMPTY CAPACITY PROVIDER|NO ACTIVE INSTANCES",
        "no instance has joined the cluster",
        "wait for the auto-scaling group; if no instance starts, check its activities",
    ),
    Reason(
        "placement",
        r"Capacity is unavailable|capacity is currently not available",
        "AWS has no capacity for a task",
        "another InstanceType, or more zones; else wait",
    ),
    Reason(
        "placement",
        r"capacity provider",
        "the capacity provider of the service cannot be used",
        "it must be ACTIVE and belong to the cluster: make deploy ONLY=cluster",
    ),
    Reason("placement", r"[Ii]nternal error", "an error within ECS", AGAIN),
    Reason(
        "placement",
        "",
        "no instance meets all requirements of a task",
        f"more instances in that zone (MaxInstances), or larger ones; {MATCH}",
    ),
    # --- what the service scheduler could not do ---
    Reason(
        "service",
        r"service.linked role",
        "ECS cannot assume its service-linked role",
        "aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com",
    ),
    Reason("service", ASSUME, "ECS cannot assume a role of the task", ROLE),
    Reason(
        "service",
        r"[Tt]arget ?[Gg]roup|targets",
        "ECS cannot register a task in the target group",
        "the target group must exist, have a listener, and be of type ip: make deploy",
    ),
    Reason("service", r"throttled", "AWS limits the rate of ECS's calls", "wait: ECS tries again by itself"),
    Reason(
        "service",
        r"deployment configuration|minimumHealthyPercent|maximumPercent",
        "the deployment's limits let ECS neither stop nor start a task",
        "MinimumHealthyPercent and MaximumPercent in the service template must leave room for one task: 100 and 200 do",
    ),
    Reason(
        "service",
        r"protected tasks",
        "more tasks are protected from scale-in than shall run",
        "wait until their protection ends, or run more tasks",
    ),
    Reason(
        "service",
        r"TaskDefinition is inactive|task definition.*(inactive|does not exist)",
        "the task definition was deregistered",
        "make deploy registers it again",
    ),
    Reason(
        "service",
        r"[Ss]ubnet|[Ss]ecurity group",
        "a subnet or security group of the service does not exist",
        "make deploy ONLY=network, then make deploy",
    ),
    Reason("service", "", "ECS cannot do what the service needs", "see what the message names"),
)
