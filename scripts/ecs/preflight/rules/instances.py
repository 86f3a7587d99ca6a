"""Rules about instances: they start from the right image with the right role, and join the service's cluster."""

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
# what the ECS agent calls before it runs any task, by resource
AGENT_ACTIONS = {
    "cluster/{cluster}": (
        "ecs:RegisterContainerInstance",
        "ecs:SubmitTaskStateChange",
        "ecs:SubmitContainerStateChange",
        "ecs:SubmitAttachmentStateChanges",
    ),
    "container-instance/{cluster}/1": ("ecs:Poll", "ecs:StartTelemetrySession"),
    "*": ("ecs:DiscoverPollEndpoint",),
}
# the public SSM parameters of ECS: the newest AMI, or one of a given date
AMI = re.compile(
    r"(?:\{\{)?resolve:ssm:/aws/service/ecs/optimized-ami/amazon-linux-(?:2|2023)(?:/kernel-[\d.]+)?"
    r"(?P<variant>(?:/[a-z0-9]+)*/recommended|/[a-z0-9]+-ami-ecs-[\w.-]+)/image_id(?::\d+)?(?:\}\})?"
)
# the snapshot of the ECS-optimised Amazon Linux 2023
ROOT_VOLUME_GIB = 30
# what the agent, Docker and the system need at least, kept free by ECS_RESERVED_MEMORY
MIN_RESERVED_MIB = 64


def launch_templates(stacks: Stacks) -> Iterator[tuple[Resource, Resource, Resource]]:
    """Each service with each of its auto-scaling groups and the group's launch template."""
    for service in services(stacks):
        for group in groups_of(stacks, service):
            template = launch_template_of(stacks, group)
            if template:
                yield service, group, template


def known_types(stacks: Stacks, group: Resource) -> list[InstanceType]:
    """The types that a group may start, without those missing from instance_types.csv."""
    table = instance_types()
    return [table[name] for name in types_of(stacks, group) if name in table]


def instances_can_start(stacks: Stacks) -> Iterator[Finding]:
    """Without an instance tasks wait forever: set MaxSize to 1 or more, and MinSize <= DesiredCapacity <= MaxSize."""
    for group in stacks.of(GROUP):
        least, most = number(group.get("MinSize")), number(group.get("MaxSize"))
        # without DesiredCapacity a new group starts MinSize instances
        desired = number(group.get("DesiredCapacity")) if group.get("DesiredCapacity") is not None else least
        if most is None or most < 1:
            yield Finding(f"{group}", f"MaxSize is {shown(group.get('MaxSize'))}", "1 or more")
        elif least is None or desired is None or not 0 <= least <= desired <= most:
            found = f"MinSize is {shown(group.get('MinSize'))}, DesiredCapacity {shown(group.get('DesiredCapacity'))}"
            yield Finding(f"{group}", found, f"MinSize <= DesiredCapacity <= MaxSize, {most:g}")
        if not group.list("VPCZoneIdentifier"):
            yield Finding(f"{group}", "VPCZoneIdentifier is empty", "the private subnets, where instances start")


def instances_have_launch_template(stacks: Stacks) -> Iterator[Finding]:
    """A group without a launch template starts nothing: name one of these stacks, with its version."""
    for group in stacks.of(GROUP):
        template = launch_template_of(stacks, group)
        if template is None:
            yield Finding(f"{group}", "its LaunchTemplate is not in these stacks", "a launch template of these stacks")
            continue
        data = template.get("LaunchTemplateData") or {}
        if data.get("SecurityGroupIds") and data.get("NetworkInterfaces"):
            yield Finding(f"{template}", "it has SecurityGroupIds and NetworkInterfaces", "only one of them, as EC2 refuses both")
        written = group.get("LaunchTemplate") or group.get("MixedInstancesPolicy", "LaunchTemplate", "LaunchTemplateSpecification")
        version = str(written.get("Version"))
        if not re.fullmatch(rf"\d+|\$Latest|\$Default|«{template}\.(LatestVersionNumber|DefaultVersionNumber)»", version):
            yield Finding(f"{group}", f"LaunchTemplate.Version is {version}", f"a version of {template}")


def instances_join_cluster(stacks: Stacks) -> Iterator[Finding]:
    """An instance joins the cluster that ECS_CLUSTER in /etc/ecs/ecs.config names, else default: name the service's cluster."""
    for service, _, template in launch_templates(stacks):
        cluster = stacks.find(service.get("Cluster"), "AWS::ECS::Cluster")
        name = cluster.identifiers["name"] if cluster else service.get("Cluster")
        script, raw = user_data(template), template.get("LaunchTemplateData", "UserData")
        if raw is not None and not script:
            yield Finding(f"{template}", "UserData is not encoded", "Fn::Base64, as EC2 refuses plain text")
        # cloud-init skips user data whose first line it does not recognise, and the instance starts all the same
        elif not re.match(r"#!|#cloud-config|Content-Type: multipart|MIME-Version:", script):
            yield Finding(f"{template}", f"UserData begins with {script[:20]!r}", "#!/bin/bash, or it is not run")
        elif "/etc/ecs/ecs.config" not in script:
            yield Finding(f"{template}", "UserData does not write /etc/ecs/ecs.config", "that file, which the agent reads")
        elif agent_settings(template).get("ECS_CLUSTER") != name:
            found = agent_settings(template).get("ECS_CLUSTER")
            yield Finding(f"{template}", f"ECS_CLUSTER is {shown(found)}", f"the service's cluster, {shown(name)}")


def agent_can_run_tasks(stacks: Stacks) -> Iterator[Finding]:
    """The agent's settings limit what tasks can use: keep task roles and awslogs enabled, and reserve memory for the system."""
    for _, _, template in launch_templates(stacks):
        settings = agent_settings(template)
        if str(settings.get("ECS_ENABLE_TASK_IAM_ROLE", "true")).lower() == "false":
            yield Finding(f"{template}", "ECS_ENABLE_TASK_IAM_ROLE is false", "true, as the task reads its model from S3")
        drivers = settings.get("ECS_AVAILABLE_LOGGING_DRIVERS", "awslogs")
        if "awslogs" not in drivers:
            yield Finding(f"{template}", f"ECS_AVAILABLE_LOGGING_DRIVERS is {drivers}", "a list with awslogs")
        reserved = number(settings.get("ECS_RESERVED_MEMORY"))
        if reserved is None or reserved < MIN_RESERVED_MIB:
            found = f"ECS_RESERVED_MEMORY is {shown(settings.get('ECS_RESERVED_MEMORY'))}"
            yield Finding(f"{template}", found, f"{MIN_RESERVED_MIB} MiB or more, for the system")


def instances_reach_metadata(stacks: Stacks) -> Iterator[Finding]:
    """Only the agent may get credentials from instance metadata, and it must: set HttpEndpoint enabled and HttpTokens required."""
    for _, _, template in launch_templates(stacks):
        if str(template.get("LaunchTemplateData", "MetadataOptions", "HttpEndpoint") or "enabled") != "enabled":
            yield Finding(f"{template}", "MetadataOptions.HttpEndpoint is disabled", "enabled, with HttpTokens required")
        tokens = template.get("LaunchTemplateData", "MetadataOptions", "HttpTokens")
        if tokens != "required":
            yield Finding(f"{template}", f"MetadataOptions.HttpTokens is {shown(tokens)}", "required")
        hops = template.get("LaunchTemplateData", "MetadataOptions", "HttpPutResponseHopLimit")
        if not 1 <= number_or(hops, 1) <= 2:
            yield Finding(f"{template}", f"HttpPutResponseHopLimit is {hops}", "1 or 2")


def instances_have_profile(stacks: Stacks) -> Iterator[Finding]:
    """An instance without the ECS agent's role never registers: give the launch template a profile with a role for it."""
    for _, _, template in launch_templates(stacks):
        profile = template.get("LaunchTemplateData", "IamInstanceProfile")
        if profile is None:
            yield Finding(f"{template}", "IamInstanceProfile is not set", "the instance profile of identity.yaml")
            continue
        by_arn = stacks.find(profile.get("Arn"), "AWS::IAM::InstanceProfile", "arn")
        by_name = stacks.find(profile.get("Name"), "AWS::IAM::InstanceProfile", "name")
        found = by_arn or by_name
        if found is None or {"Arn", "Name"} <= set(profile):
            yield Finding(f"{template}", f"IamInstanceProfile is {profile}", "Arn or Name of an instance profile")
            continue
        roles = [stacks.find(one, "AWS::IAM::Role", "name") for one in found.list("Roles")]
        # an instance profile holds exactly one role, although the property is a list
        if len(roles) != 1 or roles[0] is None:
            yield Finding(f"{found}", f"Roles is {found.get('Roles')}", "only the name of the instance role")


def instance_role_may_join(stacks: Stacks) -> Iterator[Finding]:
    """The agent registers the instance and polls for tasks with the instance's role: allow these calls on the service's cluster."""
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
                    yield Finding(
                        f"{role}", f"it may not call {', '.join(missing)} on {target}", f"a policy that allows it, to join {arn}"
                    )


def ami_is_for_ecs(stacks: Stacks) -> Iterator[Finding]:
    """An AMI without the ECS agent, or for other hardware, never joins: use the ECS-optimised AMI for the instance type, by SSM."""
    for _, group, template in launch_templates(stacks):
        image = template.get("LaunchTemplateData", "ImageId")
        match = AMI.fullmatch(str(image))
        if match is None:
            expected = "resolve:ssm:/aws/service/ecs/optimized-ami/amazon-linux-2023/.../image_id"
            yield Finding(f"{template}", f"ImageId is {shown(image)}", expected)
            continue
        path = match["variant"]
        architecture = "arm64" if re.search(r"\barm64\b", path) else "x86_64"
        gpu, other = bool(re.search(r"\bgpu\b", path)), re.search(r"\b(inf|neuron)\b", path)
        # an AMI fits every type of a mixed group, or it is wrong
        for one in known_types(stacks, group):
            if one.architecture != architecture:
                yield Finding(f"{template}", f"the AMI is for {architecture}", f"{one.architecture}, as {one.name} is")
            if gpu != bool(one.gpus) or other:
                wanted = "with a GPU" if one.gpus else "without a GPU"
                yield Finding(f"{template}", f"the AMI is {image}", f"the AMI for instances {wanted}, such as {one.name}")


def root_volume_holds_ami(stacks: Stacks) -> Iterator[Finding]:
    """EC2 refuses a root volume smaller than the AMI, and mounts no other volume: give /dev/xvda 30 GiB or more, encrypted."""
    for _, _, template in launch_templates(stacks):
        for mapping in template.list("LaunchTemplateData", "BlockDeviceMappings"):
            size = (mapping.get("Ebs") or {}).get("VolumeSize")
            if mapping.get("DeviceName") == "/dev/xvda" and number_or(size, ROOT_VOLUME_GIB) < ROOT_VOLUME_GIB:
                yield Finding(f"{template}", f"VolumeSize of /dev/xvda is {size}", f"{ROOT_VOLUME_GIB} GiB or more")
            if mapping.get("DeviceName") != "/dev/xvda":
                found = f"a BlockDeviceMapping is for {shown(mapping.get('DeviceName'))}"
                yield Finding(f"{template}", found, "/dev/xvda, as other volumes stay unused")
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
