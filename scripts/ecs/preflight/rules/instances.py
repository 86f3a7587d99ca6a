"""Rules about instances: that they start with the right image and role, and join the service's cluster."""

import re
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.permissions import may
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    Finding,
    InstanceType,
    agent_settings,
    groups_of,
    instance_types,
    is_true,
    launch_template_of,
    number,
    number_or,
    services,
    shown,
    types_of,
    user_data,
)

GROUP = "AWS::AutoScaling::AutoScalingGroup"
# what the agent does of itself before it runs any task, by what IAM asks it of
AGENT_ACTIONS = {
    "cluster/{cluster}": (
        *("ecs:RegisterContainerInstance", "ecs:SubmitTaskStateChange", "ecs:SubmitContainerStateChange"),
        "ecs:SubmitAttachmentStateChanges",
    ),
    "container-instance/{cluster}/1": ("ecs:Poll", "ecs:StartTelemetrySession"),
    "*": ("ecs:DiscoverPollEndpoint",),
}
# the public parameters of ECS: the newest image, or that of a date
AMI = re.compile(
    r"(?:\{\{)?resolve:ssm:/aws/service/ecs/optimized-ami/amazon-linux-(?:2|2023)(?:/kernel-[\d.]+)?"
    r"(?P<variant>(?:/[a-z0-9]+)*/recommended|/[a-z0-9]+-ami-ecs-[\w.-]+)/image_id(?::\d+)?(?:\}\})?"
)
# the size of the snapshot that the ECS-optimised AMI of Amazon Linux 2023 is
ROOT_VOLUME_GIB = 30
# ECS_RESERVED_MEMORY: the agent, Docker and the system take at least as much
LEAST_RESERVED_MIB = 64


def launch_templates(stacks: Stacks) -> Iterator[tuple[Resource, Resource, Resource]]:
    """Each service with one of its auto-scaling groups and that one's launch template."""
    for service in services(stacks):
        for group in groups_of(stacks, service):
            template = launch_template_of(stacks, group)
            if template:
                yield service, group, template


def known_types(stacks: Stacks, group: Resource) -> list[InstanceType]:
    """What a group may start, as far as it is known."""
    table = instance_types()
    return [table[name] for name in types_of(stacks, group) if name in table]


def instances_can_start(stacks: Stacks) -> Iterator[Finding]:
    """Without an instance every task waits for ever: let MinSize <= DesiredCapacity <= MaxSize, and MaxSize be 1 or more."""
    for group in stacks.of(GROUP):
        least, most = number(group.get("MinSize")), number(group.get("MaxSize"))
        desired = number(group.get("DesiredCapacity")) if group.get("DesiredCapacity") is not None else least
        if most is None or most < 1:
            yield Finding(f"{group}", f"MaxSize is {shown(group.get('MaxSize'))}", "1 or more")
        elif least is None or desired is None or not 0 <= least <= desired <= most:
            found = f"MinSize is {shown(group.get('MinSize'))}, DesiredCapacity {shown(group.get('DesiredCapacity'))}"
            yield Finding(f"{group}", found, f"numbers that rise to MaxSize, {most:g}")
        if not group.list("VPCZoneIdentifier"):
            yield Finding(f"{group}", "VPCZoneIdentifier is empty", "the private subnets, as instances would start nowhere")


def instances_have_launch_template(stacks: Stacks) -> Iterator[Finding]:
    """A group without a launch template starts nothing: name one of the same stacks, and its version."""
    for group in stacks.of(GROUP):
        template = launch_template_of(stacks, group)
        if template is None:
            yield Finding(f"{group}", "its LaunchTemplate is none of these stacks", "a launch template")
            continue
        data = template.get("LaunchTemplateData") or {}
        if data.get("SecurityGroupIds") and data.get("NetworkInterfaces"):
            yield Finding(f"{template}", "it has SecurityGroupIds and NetworkInterfaces", "one of them, as EC2 refuses both")
        written = group.get("LaunchTemplate") or group.get("MixedInstancesPolicy", "LaunchTemplate", "LaunchTemplateSpecification")
        version = str(written.get("Version"))
        if not re.fullmatch(rf"\d+|\$Latest|\$Default|«{template}\.(LatestVersionNumber|DefaultVersionNumber)»", version):
            yield Finding(f"{group}", f"LaunchTemplate.Version is {version}", f"a version of {template}")


def instances_join_cluster(stacks: Stacks) -> Iterator[Finding]:
    """Instances join the cluster that ECS_CLUSTER in /etc/ecs/ecs.config names, or default: name the service's cluster."""
    for service, _, template in launch_templates(stacks):
        cluster = stacks.find(service.get("Cluster"), "AWS::ECS::Cluster")
        name = cluster.identifiers["name"] if cluster else service.get("Cluster")
        script, raw = user_data(template), template.get("LaunchTemplateData", "UserData")
        if raw is not None and not script:
            yield Finding(f"{template}", "UserData is not encoded", "Fn::Base64, as EC2 refuses it else")
        elif not re.match(r"#!|#cloud-config|Content-Type: multipart|MIME-Version:", script):
            yield Finding(f"{template}", f"UserData begins with {script[:20]!r}", "#!/bin/bash, or nothing of it is run")
        elif "/etc/ecs/ecs.config" not in script:
            yield Finding(f"{template}", "UserData writes no /etc/ecs/ecs.config", "the file that the agent reads")
        elif agent_settings(template).get("ECS_CLUSTER") != name:
            found = agent_settings(template).get("ECS_CLUSTER")
            yield Finding(f"{template}", f"ECS_CLUSTER is {shown(found)}", f"the service's cluster, {shown(name)}")


def agent_can_run_tasks(stacks: Stacks) -> Iterator[Finding]:
    """The agent offers what its settings allow: leave tasks' roles and the driver awslogs on, and reserve memory for the system."""
    for _, _, template in launch_templates(stacks):
        settings = agent_settings(template)
        if str(settings.get("ECS_ENABLE_TASK_IAM_ROLE", "true")).lower() == "false":
            yield Finding(f"{template}", "ECS_ENABLE_TASK_IAM_ROLE is false", "true, as the task reads its model from S3")
        drivers = settings.get("ECS_AVAILABLE_LOGGING_DRIVERS", "awslogs")
        if "awslogs" not in drivers:
            yield Finding(f"{template}", f"ECS_AVAILABLE_LOGGING_DRIVERS is {drivers}", "awslogs among them")
        reserved = number(settings.get("ECS_RESERVED_MEMORY"))
        if reserved is None or reserved < LEAST_RESERVED_MIB:
            found = f"ECS_RESERVED_MEMORY is {shown(settings.get('ECS_RESERVED_MEMORY'))}"
            yield Finding(f"{template}", found, f"{LEAST_RESERVED_MIB} MiB or more, for the system beside the tasks")


def instances_reach_metadata(stacks: Stacks) -> Iterator[Finding]:
    """The agent gets its credentials from the metadata service, and nobody else may: HttpEndpoint enabled, HttpTokens required."""
    for _, _, template in launch_templates(stacks):
        if str(template.get("LaunchTemplateData", "MetadataOptions", "HttpEndpoint") or "enabled") != "enabled":
            yield Finding(f"{template}", "MetadataOptions.HttpEndpoint is disabled", "enabled, with HttpTokens required")
        tokens = template.get("LaunchTemplateData", "MetadataOptions", "HttpTokens")
        if tokens != "required":
            yield Finding(f"{template}", f"MetadataOptions.HttpTokens is {shown(tokens)}", "required")
        hops = template.get("LaunchTemplateData", "MetadataOptions", "HttpPutResponseHopLimit")
        if not 1 <= number_or(hops, 1) <= 2:
            yield Finding(f"{template}", f"HttpPutResponseHopLimit is {hops}", "1, or 2")


def instances_have_profile(stacks: Stacks) -> Iterator[Finding]:
    """An instance without the role of an ECS agent never registers: give the launch template a profile whose role may call ECS."""
    for _, _, template in launch_templates(stacks):
        profile = template.get("LaunchTemplateData", "IamInstanceProfile")
        if profile is None:
            yield Finding(f"{template}", "there is no IamInstanceProfile", "the instance profile of identity.yaml")
            continue
        by_arn = stacks.find(profile.get("Arn"), "AWS::IAM::InstanceProfile", "arn")
        by_name = stacks.find(profile.get("Name"), "AWS::IAM::InstanceProfile", "name")
        found = by_arn or by_name
        if found is None or {"Arn", "Name"} <= set(profile):
            yield Finding(f"{template}", f"IamInstanceProfile is {profile}", "Arn or Name of an instance profile")
            continue
        roles = [stacks.find(one, "AWS::IAM::Role", "name") for one in found.list("Roles")]
        if len(roles) != 1 or roles[0] is None:
            yield Finding(f"{found}", f"Roles is {found.get('Roles')}", "the name of the one instance role")


def instance_role_may_join(stacks: Stacks) -> Iterator[Finding]:
    """The agent registers the instance and hears of tasks with the instance's role: let it act on the service's cluster."""
    for service, _, template in launch_templates(stacks):
        profile = template.get("LaunchTemplateData", "IamInstanceProfile") or {}
        found = [stacks.find(profile.get(key), "AWS::IAM::InstanceProfile", key.lower()) for key in ("Arn", "Name")]
        cluster = stacks.find(service.get("Cluster"), "AWS::ECS::Cluster")
        if cluster is None:
            continue
        arn = cluster.identifiers["arn"]
        for role in [stacks.find(one, "AWS::IAM::Role", "name") for profile in found if profile for one in profile.list("Roles")]:
            for resource, actions in AGENT_ACTIONS.items():
                target = (
                    resource
                    if resource == "*"
                    else arn.rsplit(":", 1)[0] + ":" + resource.format(cluster=cluster.identifiers["name"])
                )
                missing = [action for action in actions if role and not may(stacks, role, action, target, {"ecs:cluster": arn})]
                if missing:
                    yield Finding(f"{role}", f"it may not {', '.join(missing)} on {target}", f"that it may, to join {arn}")


def ami_is_for_ecs(stacks: Stacks) -> Iterator[Finding]:
    """An AMI without agent, or for other instances, never joins: take the ECS-optimised one of their kind by its SSM parameter."""
    for _, group, template in launch_templates(stacks):
        image = template.get("LaunchTemplateData", "ImageId")
        match = AMI.fullmatch(str(image))
        if match is None:
            expected = "/aws/service/ecs/optimized-ami/amazon-linux-2023/.../image_id by SSM"
            yield Finding(f"{template}", f"ImageId is {shown(image)}", expected)
            continue
        path = match["variant"]
        architecture = "arm64" if re.search(r"\barm64\b", path) else "x86_64"
        gpu, other = bool(re.search(r"\bgpu\b", path)), re.search(r"\b(inf|neuron)\b", path)
        for one in known_types(stacks, group):
            if one.architecture != architecture:
                yield Finding(f"{template}", f"the AMI is for {architecture}", f"{one.architecture}, as {one.name} is")
            if gpu != bool(one.gpus) or other:
                wanted = "a GPU" if one.gpus else "no GPU"
                yield Finding(f"{template}", f"the AMI is {image}", f"one for {wanted}, as {one.name} has {wanted}")


def root_volume_holds_ami(stacks: Stacks) -> Iterator[Finding]:
    """EC2 refuses a root volume smaller than the AMI's snapshot, and mounts no other: give /dev/xvda 30 GiB or more, encrypted."""
    for _, _, template in launch_templates(stacks):
        for mapping in template.list("LaunchTemplateData", "BlockDeviceMappings"):
            size = (mapping.get("Ebs") or {}).get("VolumeSize")
            if mapping.get("DeviceName") == "/dev/xvda" and number_or(size, ROOT_VOLUME_GIB) < ROOT_VOLUME_GIB:
                yield Finding(f"{template}", f"VolumeSize of /dev/xvda is {size}", f"{ROOT_VOLUME_GIB} GiB or more")
            if mapping.get("DeviceName") != "/dev/xvda":
                found = f"a BlockDeviceMapping is for {shown(mapping.get('DeviceName'))}"
                yield Finding(f"{template}", found, "/dev/xvda, as others stay empty")
            if not is_true((mapping.get("Ebs") or {}).get("Encrypted")):
                yield Finding(f"{template}", f"Encrypted is {shown((mapping.get('Ebs') or {}).get('Encrypted'))}", "true")


RULES = (
    instances_can_start,
    instances_have_launch_template,
    instances_join_cluster,
    agent_can_run_tasks,
    instances_reach_metadata,
    instances_have_profile,
    instance_role_may_join,
    ami_is_for_ecs,
    root_volume_holds_ami,
)
