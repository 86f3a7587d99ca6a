"""Rules about the task definition: ECS can place and start it - network, ports, image, roles, logs, memory."""

import re
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.permissions import may, trusts
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    Finding,
    containers,
    groups_of,
    is_true,
    network_mode,
    number,
    number_or,
    port_mappings,
    services,
    serving_container,
    shown,
    target_groups_of,
    task_of,
)
from scripts.ecs.preflight.rules.instances import known_types
from scripts.ecs.stacks import ORDER

ROLE, LOG_GROUP, REPOSITORY = "AWS::IAM::Role", "AWS::Logs::LogGroup", "AWS::ECR::Repository"
PULL_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
IMAGE = re.compile(
    r"(?P<host>(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)/(?P<repository>[^:@]+)"
    r"(?::(?P<tag>[^@]*))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
LOG_OPTIONS = (
    "awslogs-group",
    "awslogs-region",
    "awslogs-stream-prefix",
    "awslogs-create-group",
    "awslogs-datetime-format",
    "awslogs-multiline-pattern",
    "awslogs-endpoint",
    "mode",
    "max-buffer-size",
)
# used while a rollout has two versions loaded, measured with the starter model; /tmp, a tmpfs, counts as memory, too
ROLLOUT_MIB = 1740


def tasks(stacks: Stacks) -> list[Resource]:
    """All task definitions."""
    return stacks.of("ECS::TaskDefinition")


def network_mode_fits_target_type(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses any other pair: use target type ip with awsvpc, and instance with bridge or host."""
    for service in services(stacks):
        task = task_of(stacks, service)
        for group in target_groups_of(stacks, service) if task else []:
            assert task is not None
            mode, type_ = network_mode(task), str(group.get("TargetType") or "instance")
            # the group would register each instance at the target group's port, whatever runs there
            for instances in stacks.of("AutoScaling::AutoScalingGroup"):
                if group.identifiers["arn"] in instances.list("TargetGroupARNs"):
                    yield Finding(
                        f"{instances}", f"TargetGroupARNs has {group}", "no target groups, as ECS registers tasks, not instances"
                    )
            if type_ != ("ip" if mode == "awsvpc" else "instance"):
                yield Finding(
                    f"{group}", f"TargetType is {type_}", f"{'ip' if mode == 'awsvpc' else 'instance'}, as {task} uses {mode}"
                )


def network_configuration_fits_mode(stacks: Stacks) -> Iterator[Finding]:
    """ECS needs subnets and groups with awsvpc only, and gives tasks on EC2 no public address: match the network mode."""
    for service in services(stacks):
        task = task_of(stacks, service)
        if task is None:
            continue
        if network_mode(task) not in ("awsvpc", "bridge", "host"):
            yield Finding(f"{task}", f"NetworkMode is {network_mode(task)}", "awsvpc, which gives each task its own address")
        if network_mode(task) != "awsvpc":
            if service.get("NetworkConfiguration"):
                yield Finding(f"{service}", "NetworkConfiguration is set", f"not set, as {task} uses {network_mode(task)}")
            continue
        for key in ("Subnets", "SecurityGroups"):
            if not service.list("NetworkConfiguration", "AwsvpcConfiguration", key):
                yield Finding(f"{service}", f"NetworkConfiguration has no {key}", f"{key}, as the task uses awsvpc")
        if str(service.get("NetworkConfiguration", "AwsvpcConfiguration", "AssignPublicIp") or "DISABLED") != "DISABLED":
            yield Finding(f"{service}", "AssignPublicIp is ENABLED", "DISABLED, as EC2 gives tasks no public address")
        if service.get("Role"):
            yield Finding(
                f"{service}", f"Role is {service.get('Role')}", "not set, as ECS uses its service-linked role with awsvpc"
            )


def host_ports_are_free(stacks: Stacks) -> Iterator[Finding]:
    """A fixed host port is still in use by the old task when the new one starts: use HostPort 0 with bridge, none with awsvpc."""
    for task in tasks(stacks):
        for container in containers(task):
            for ports, mapping in port_mappings(container):
                host = mapping.get("HostPort")
                if network_mode(task) == "awsvpc":
                    # with awsvpc the container's port is the task's own
                    if host not in (None, "") and number(host) != ports.start:
                        yield Finding(f"{task}", f"HostPort is {host}", f"{ports.start}, its ContainerPort, or not set with awsvpc")
                elif network_mode(task) == "host" or number_or(host, 0) != 0:
                    expected = "0, so that each task gets a free port" if network_mode(task) == "bridge" else "awsvpc"
                    yield Finding(f"{task}", f"HostPort is {shown(host)} with NetworkMode {network_mode(task)}", expected)


def image_parts(task: Resource, stacks: Stacks) -> re.Match[str] | None:
    """The parts of the serving container's image, None if it is not from ECR."""
    container = serving_container(stacks, task)
    return IMAGE.fullmatch(str(container.get("Image"))) if container else None


def image_repository(stacks: Stacks, task: Resource) -> Resource | None:
    """The registry of these stacks that the image comes from; one whose name AWS chooses counts as a match."""
    parts = image_parts(task, stacks)
    repositories = stacks.of(REPOSITORY)
    for repository in repositories:
        if parts and repository.identifiers["name"] == parts["repository"]:
            return repository
    # its real name is known only once it exists
    unnamed = [one for one in repositories if one.get("RepositoryName") is None]
    return unnamed[0] if parts and unnamed else None


def image_comes_from_our_registry(stacks: Stacks) -> Iterator[Finding]:
    """An image outside this deployment's registry cannot be pulled: push it there, and give its full name."""
    for task in tasks(stacks):
        container, parts = serving_container(stacks, task), image_parts(task, stacks)
        image = container.get("Image") if container else None
        expected = f"REGISTRY/NAME:TAG of this deployment's ECR in {stacks.deployment.region}"
        if parts is None or parts["region"] != stacks.deployment.region or image_repository(stacks, task) is None:
            yield Finding(f"{task}", f"Image is {shown(image)}", expected)


def image_is_there_first(stacks: Stacks) -> Iterator[Finding]:
    """A registry created together with the service is empty when the first task starts: keep it in an earlier stack."""
    for task in tasks(stacks):
        repository = image_repository(stacks, task)
        if repository and ORDER.index(repository.stack) >= ORDER.index(task.stack):
            found = f"its image is in {repository}, in the same stack or a later one"
            yield Finding(f"{task}", found, "a registry in an earlier stack, with the image pushed already")


def image_tag_is_fixed(stacks: Stacks) -> Iterator[Finding]:
    """With a moving tag a replaced task may start an untested image: name a tag that is pushed only once, or a digest."""
    for task in tasks(stacks):
        for container in containers(task):
            parts = IMAGE.fullmatch(str(container.get("Image")))
            # after the last slash: a registry's port also has a colon
            tag = parts["tag"] if parts else str(container.get("Image")).rpartition("/")[2].partition(":")[2]
            if not (parts and parts["digest"]) and (not tag or tag.lower() == "latest"):
                yield Finding(f"{task}", f"Image is {shown(container.get('Image'))}", "a tag other than latest, e.g. the commit")


def architecture_matches(stacks: Stacks) -> Iterator[Finding]:
    """An image for another CPU fails with "exec format error", or is never placed: set CpuArchitecture to the instances'."""
    for service in services(stacks):
        task = task_of(stacks, service)
        for group in groups_of(stacks, service) if task else []:
            assert task is not None
            architecture = str(task.get("RuntimePlatform", "CpuArchitecture") or "X86_64")
            for one in known_types(stacks, group):
                # X86_64 in a task definition, x86_64 in EC2
                if architecture.lower() != one.architecture:
                    yield Finding(
                        f"{task}",
                        f"CpuArchitecture is {architecture}",
                        f"{one.architecture.upper()}, the architecture of {one.name}",
                    )
    for task in tasks(stacks):
        system = str(task.get("RuntimePlatform", "OperatingSystemFamily") or "LINUX")
        if system != "LINUX":
            yield Finding(f"{task}", f"OperatingSystemFamily is {system}", "LINUX, like the instances and the image")
        # ECS checks a task definition against these when it is registered
        compatible = task.list("RequiresCompatibilities")
        if compatible and "EC2" not in compatible:
            yield Finding(f"{task}", f"RequiresCompatibilities is {compatible}", "a list with EC2, or not set")


def execution_role_is_there(stacks: Stacks) -> Iterator[Finding]:
    """Without an execution role that ECS tasks can assume, no image is pulled and no log is written: set ExecutionRoleArn."""
    for task in tasks(stacks):
        role = stacks.find(task.get("ExecutionRoleArn"), ROLE, "arn")
        if role is None:
            yield Finding(f"{task}", f"ExecutionRoleArn is {shown(task.get('ExecutionRoleArn'))}", "the ARN of the execution role")
        elif not trusts(stacks, role, "ecs-tasks.amazonaws.com"):
            yield Finding(f"{role}", "ECS tasks cannot assume it", "a trust policy for ecs-tasks.amazonaws.com with sts:AssumeRole")


def execution_role_may_start_task(stacks: Stacks) -> Iterator[Finding]:
    """ECS pulls the image and opens the log stream with the execution role: allow pulls from ECR and writes to the log group."""
    for task in tasks(stacks):
        role = stacks.find(task.get("ExecutionRoleArn"), ROLE, "arn")
        if role is None:
            continue
        repository = image_repository(stacks, task)
        wanted = [("ecr:GetAuthorizationToken", "*")]
        wanted += [(action, repository.identifiers["arn"]) for action in PULL_ACTIONS] if repository else []
        for container in containers(task):
            options = (container.get("LogConfiguration") or {}).get("Options") or {}
            group = stacks.find(options.get("awslogs-group"), LOG_GROUP, "name")
            if group:
                # IAM is asked for the stream, and a policy on the group alone does not cover it
                arn = group.identifiers["arn"].removesuffix("*") + "log-stream:x"
                wanted += [("logs:CreateLogStream", arn), ("logs:PutLogEvents", arn)]
                wanted += [("logs:CreateLogGroup", arn)] if is_true(options.get("awslogs-create-group")) else []
        for action, resource in dict.fromkeys(wanted):
            if not may(stacks, role, action, resource):
                yield Finding(f"{role}", f"it may not call {action} on {resource}", "a policy that allows it")


def log_group_exists(stacks: Stacks) -> Iterator[Finding]:
    """A task stops at once if its log group is missing in its region: name a log group of an earlier stack, and this region."""
    for task in tasks(stacks):
        for container in containers(task):
            name, logs = container.get("Name"), container.get("LogConfiguration") or {}
            options = logs.get("Options") or {}
            if logs.get("LogDriver") != "awslogs":
                yield Finding(
                    f"{task}",
                    f"LogDriver of {name} is {shown(logs.get('LogDriver'))}",
                    "awslogs, or the reason of a stop is lost",
                )
                continue
            group = stacks.find(options.get("awslogs-group"), LOG_GROUP, "name")
            if group is None:
                yield Finding(
                    f"{task}", f"awslogs-group of {name} is {shown(options.get('awslogs-group'))}", "a log group of these stacks"
                )
            elif ORDER.index(group.stack) > ORDER.index(task.stack):
                yield Finding(f"{task}", f"its log group {group} is created later", "one that exists before the task")
            # the task definition, or the service that starts it, must wait for the group
            elif group.stack == task.stack and not any(
                group.name in stacks.before(one) for one in [task, *services(stacks)] if one.stack == task.stack
            ):
                yield Finding(f"{task}", f"it does not wait for its log group {group}", "DependsOn, or !Ref of the group")
            unknown = sorted(set(options) - set(LOG_OPTIONS))
            if unknown or options.get("mode") not in (None, "blocking", "non-blocking"):
                found = f"Options of {name} has {', '.join(unknown) or 'mode ' + str(options.get('mode'))}"
                yield Finding(f"{task}", found, "options that Docker supports, or the container does not start")
            if options.get("awslogs-region") != stacks.deployment.region:
                found = f"awslogs-region of {name} is {shown(options.get('awslogs-region'))}"
                yield Finding(f"{task}", found, f"{stacks.deployment.region}, the region of its log group")


def memory_is_enough(stacks: Stacks) -> Iterator[Finding]:
    """With too little memory the container is killed while a rollout has two versions loaded: raise it, and reserve no more."""
    for task in tasks(stacks):
        serving, total = serving_container(stacks, task), number(task.get("Memory"))
        for container in containers(task):
            hard, soft = number(container.get("Memory")), number(container.get("MemoryReservation"))
            # a container without its own limit may use all of the task's memory
            limit, name = hard if hard is not None else total, container.get("Name")
            if total is None and hard is None and soft is None:
                yield Finding(
                    f"{task}",
                    f"neither {name} nor the task has Memory or MemoryReservation",
                    "Memory, as ECS refuses a task without it",
                )
            if hard is not None and total is not None and hard > total:
                yield Finding(f"{task}", f"Memory of {name} is {hard:g}", f"at most the task's, {total:g}")
            if soft is not None and limit is not None and soft > limit:
                yield Finding(f"{task}", f"MemoryReservation of {name} is {soft:g}", f"at most its Memory, {limit:g}")
            if container is serving and limit is not None and limit < ROLLOUT_MIB:
                yield Finding(f"{task}", f"Memory of {name} is {limit:g}", f"{ROLLOUT_MIB} MiB or more, for two versions")


RULES = (
    network_mode_fits_target_type,
    network_configuration_fits_mode,
    host_ports_are_free,
    image_comes_from_our_registry,
    image_is_there_first,
    image_tag_is_fixed,
    architecture_matches,
    execution_role_is_there,
    execution_role_may_start_task,
    log_group_exists,
    memory_is_enough,
)
