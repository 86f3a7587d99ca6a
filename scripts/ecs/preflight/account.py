"""Checks that only the account can answer: quotas, the image and its processor, certificate, AMI parameter, role, names.

Each check reads from AWS and changes nothing. A check that the credentials do not allow is skipped, and names the permission.
"""

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from scripts.ecs.aws import CREATE_ECS_ROLE, DENIED, ECS_ROLE, Aws, AwsError
from scripts.ecs.preflight.resolve.templates import Stacks
from scripts.ecs.preflight.resolve.wiring import LISTENER, number_or, serving_container, types_of
from scripts.ecs.preflight.result import FAILED, OK, SKIPPED, Result
from scripts.ecs.preflight.rules.instances import launch_templates
from scripts.ecs.preflight.rules.task import IMAGE

# quotas on running On-Demand instances, in vCPUs, by the first letter of the instance type; others are too rare to list
QUOTAS = {"L-1216C47A": "acdhimrtz", "L-DB2E81BA": "gv", "L-417A185B": "p"}
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# a processor's name in an image, and in CloudFormation
PROCESSORS = {"amd64": "X86_64", "arm64": "ARM64"}
DOWNLOAD_TIMEOUT_S = 20

# yields (state, message)
Check = Callable[[Aws, Stacks], Iterator[tuple[str, str]]]


def check_all(aws: Aws, stacks: Stacks) -> list[Result]:
    """The results of all checks. A call that is not allowed skips its check; any other error fails it."""
    results = []
    for check in CHECKS:
        name = check.__name__.replace("_", "-")
        try:
            results += [Result(name, state, message) for state, message in check(aws, stacks)]
        except AwsError as error:
            denied = error.code in DENIED
            results.append(Result(name, SKIPPED if denied else FAILED, f"{error.call} is not allowed" if denied else str(error)))
        except OSError as error:
            results.append(Result(name, FAILED, f"no answer: {error}"))
    return results


def vcpu_quota_is_enough(aws: Aws, stacks: Stacks) -> Iterator[tuple[str, str]]:
    """Instances beyond the account's vCPU quota never start, and their tasks wait forever."""
    for _, group, _ in launch_templates(stacks):
        for name in types_of(stacks, group):
            code = next((code for code, letters in QUOTAS.items() if name[0] in letters), None)
            if code is None:
                yield SKIPPED, f"the quota of {name} is not listed"
                continue
            quota = _quota(aws, code)
            try:
                (type_,) = aws.call("ec2", "describe_instance_types", InstanceTypes=[name])["InstanceTypes"]
            except AwsError as error:
                if error.code != "InvalidInstanceType":
                    raise
                yield FAILED, f"there is no instance type {name}: correct InstanceType"
                continue
            each = type_["VCpuInfo"]["DefaultVCpus"]
            used = _used(aws, QUOTAS[code], stacks.deployment.stack("cluster"))
            needed = each * int(number_or(group.get("MaxSize"), 0))
            message = f"{code} allows {quota:g} vCPUs, others use {used}, and {group} may need {needed} ({name}, {each} each)"
            if used + needed <= quota:
                yield OK, message
            else:
                yield FAILED, f"{message}: request an increase in Service Quotas (EC2), or lower MaxInstances"


def _quota(aws: Aws, code: str) -> float:
    try:
        return float(aws.call("service-quotas", "get_service_quota", ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
    except AwsError as error:
        if error.code != "NoSuchResourceException":
            raise
    # a quota that was never changed in this account has no value of its own
    return float(aws.call("service-quotas", "get_aws_default_service_quota", ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])


def _used(aws: Aws, letters: str, own_stack: str) -> int:
    """The vCPUs of running instances that count towards a quota, without those of our own group."""
    running: Counter[str] = Counter()
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    for reservation in aws.pages("ec2", "describe_instances", "Reservations", Filters=states):
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
            # Spot instances count towards other quotas, and our own group is counted by its MaxSize
            spot = instance.get("InstanceLifecycle") == "spot"
            if not spot and instance["InstanceType"][0] in letters and tags.get("aws:cloudformation:stack-name") != own_stack:
                running[instance["InstanceType"]] += 1
    if not running:
        return 0
    types = aws.pages("ec2", "describe_instance_types", "InstanceTypes", InstanceTypes=sorted(running))
    return sum(one["VCpuInfo"]["DefaultVCpus"] * running[one["InstanceType"]] for one in types)


def instance_type_is_offered(aws: Aws, stacks: Stacks) -> Iterator[tuple[str, str]]:
    """An instance type that no zone of our subnets offers is never started."""
    zones = [one.get("AvailabilityZone") for one in stacks.of("EC2::Subnet") if one.get("AvailabilityZone")]
    for _, group, _ in launch_templates(stacks):
        for name in types_of(stacks, group):
            offers = aws.pages(
                "ec2",
                "describe_instance_type_offerings",
                "InstanceTypeOfferings",
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": [name]}],
            )
            offered = sorted({offer["Location"] for offer in offers})
            # without Zones the templates take the first two of the region, usually a and b
            usable = [zone for zone in offered if zone in zones] if zones else offered
            if usable:
                yield OK, f"{name} is offered in {', '.join(usable)}"
            else:
                yield (
                    FAILED,
                    f"{name} is offered in {', '.join(offered) or 'no zone'}: set Zones to these, or choose another InstanceType",
                )


def image_is_there(aws: Aws, stacks: Stacks) -> Iterator[tuple[str, str]]:
    """A task whose image is not in the registry, or is for another processor, never starts."""
    for task in stacks.of("ECS::TaskDefinition"):
        image = str((serving_container(stacks, task) or {}).get("Image"))
        parts = IMAGE.fullmatch(image)
        if "Image" in stacks.placeholders:
            yield SKIPPED, "Image is not set: make deploy builds this commit's image and sets it"
        elif parts is None or parts["region"] != aws.region:
            yield FAILED, f"Image is {image}, expected an image in ECR in {aws.region}"
        else:
            yield _image(aws, parts, str(task.get("RuntimePlatform", "CpuArchitecture") or "X86_64"), stacks.deployment.build.torch)


def _image(aws: Aws, parts: re.Match[str], wanted: str, torch: str) -> tuple[str, str]:
    which = {"imageDigest": parts["digest"]} if parts["digest"] else {"imageTag": parts["tag"] or "latest"}
    where = {"registryId": parts["account"], "repositoryName": parts["repository"]}
    try:
        answer = aws.call("ecr", "batch_get_image", **where, imageIds=[which], acceptedMediaTypes=list(MANIFESTS))
    except AwsError as error:
        if error.code != "RepositoryNotFoundException":
            raise
        return FAILED, f"there is no registry {parts['repository']} in {aws.region}: make deploy ONLY=storage creates it"
    # ECR reports a missing tag under `failures`, not as an error
    if not answer["images"]:
        return FAILED, f"{parts[0]} is not in the registry: make deploy without Image builds and pushes this commit's"
    found, built = _processors(aws, where, json.loads(answer["images"][0]["imageManifest"]))
    message = f"{parts[0]} is built for {', '.join(found)}{f' with TORCH={built}' if built else ''}"
    if wanted not in found:
        return FAILED, f"{message}, expected {wanted}: leave Image out, and make deploy builds for the deployment's Architecture"
    if built and built.startswith("cu") != torch.startswith("cu"):
        return FAILED, f"{message}, expected TORCH={torch}: leave Image out, and make deploy builds for the deployment's Gpu"
    return OK, message


def _processors(aws: Aws, where: Mapping[str, str], manifest: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """(an image's processors, the TORCH that it was built with; None if it does not show that)."""
    if "manifests" in manifest:
        # docker buildx lists attestations beside the images, with the architecture "unknown"
        names = [one.get("platform", {}).get("architecture", "unknown") for one in manifest["manifests"]]
        return [PROCESSORS.get(name, name) for name in names if name != "unknown"], None
    digest = manifest["config"]["digest"]
    url = aws.call("ecr", "get_download_url_for_layer", **where, layerDigest=digest)["downloadUrl"]
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:  # a URL that AWS has just signed
        config = json.load(answer)
    name = str(config.get("architecture", "unknown"))
    # the label that the Dockerfile writes
    return [PROCESSORS.get(name, name)], ((config.get("config") or {}).get("Labels") or {}).get("seefood.torch")


def certificate_is_issued(aws: Aws, stacks: Stacks) -> Iterator[tuple[str, str]]:
    """ELB refuses an HTTPS listener whose certificate is not validated yet, or has expired."""
    domain = stacks.parameters.get("service", {}).get("DomainName", "")
    for listener in stacks.of(LISTENER):
        arn = listener.get("Certificates", 0, "CertificateArn")
        if arn is None:
            continue
        if "CertificateArn" in stacks.placeholders:
            yield FAILED, f"CertificateArn is not set in deployments/{stacks.deployment.name}.yaml: request one from ACM"
            continue
        if str(arn).split(":")[3:4] != [aws.region]:
            yield FAILED, f"{arn} is not in {aws.region}: request one from ACM there"
            continue
        try:
            found = aws.call("acm", "describe_certificate", CertificateArn=arn)["Certificate"]
        except AwsError as error:
            if error.code not in ("ResourceNotFoundException", "ValidationException"):
                raise
            yield FAILED, f"there is no certificate {arn}: request one from ACM in {aws.region}"
            continue
        # subject alternative names usually repeat the domain name, so a set is shown
        names = [found.get("DomainName", ""), *found.get("SubjectAlternativeNames", [])]
        if found["Status"] != "ISSUED":
            yield FAILED, f"{arn} is {found['Status']}, expected ISSUED: create the DNS record that ACM shows"
        # ACM sends NotAfter only for certificates that were issued
        elif "NotAfter" in found and found["NotAfter"] < datetime.now(UTC):
            yield FAILED, f"{arn} expired on {found['NotAfter']:%Y-%m-%d}: renew it"
        elif domain and not any(_is_for(name, domain) for name in names):
            yield FAILED, f"{arn} is for {', '.join(sorted(set(names)))}, but DomainName is {domain}"
        else:
            yield OK, f"{arn} is ISSUED for {', '.join(sorted(set(names)))}"


def _is_for(name: str, domain: str) -> bool:
    """Whether a certificate's name covers a domain: the same name, or * for one label."""
    return name == domain or (name.startswith("*.") and domain.partition(".")[2] == name[2:])


def ami_parameter_exists(aws: Aws, stacks: Stacks) -> Iterator[tuple[str, str]]:
    """Instances without an AMI do not start."""
    for _, _, template in launch_templates(stacks):
        image = str(template.get("LaunchTemplateData", "ImageId"))
        match = re.fullmatch(r"(?:\{\{)?resolve:ssm:([^:}]+)(?::\d+)?(?:\}\})?", image)
        if match is None:
            yield FAILED, f"ImageId is {image}, expected an SSM parameter"
            continue
        try:
            value = aws.call("ssm", "get_parameter", Name=match[1])["Parameter"]["Value"]
        except AwsError as error:
            if error.code != "ParameterNotFound":
                raise
            yield FAILED, f"there is no parameter {match[1]} in {aws.region}: correct AmiParameter"
            continue
        yield (OK if value.startswith("ami-") else FAILED), f"{match[1]} is {value[:40]}"


def ecs_role_exists(aws: Aws, stacks: Stacks) -> Iterator[tuple[str, str]]:
    """ECS attaches network interfaces and registers targets with its service-linked role, which a new account may lack."""
    try:
        aws.call("iam", "get_role", RoleName=ECS_ROLE)
    except AwsError as error:
        if error.code != "NoSuchEntity":
            raise
        yield FAILED, f"{ECS_ROLE} is missing: {CREATE_ECS_ROLE}"
        return
    yield OK, f"{ECS_ROLE} exists"


def bucket_name_is_free(aws: Aws, stacks: Stacks) -> Iterator[tuple[str, str]]:
    """A bucket's name is unique in the world, so somebody else may have it."""
    for bucket in stacks.of("S3::Bucket"):
        name = bucket.get("BucketName")
        if name is None:
            yield OK, f"CloudFormation will choose the name of {bucket}"
            continue
        try:
            aws.call("s3", "head_bucket", Bucket=name)
        except AwsError as error:
            # 404: nobody has the name; 403: another account has it
            if error.code in ("404", "NoSuchBucket"):
                yield OK, f"the name {name} is free"
            elif error.code in DENIED:
                yield FAILED, f"the bucket {name} belongs to another account: choose another name"
            else:
                raise
            continue
        ours = _stack_has(aws, stacks.deployment.stack(bucket.stack), bucket.name)
        yield (
            (OK, f"the bucket {name} belongs to this stack")
            if ours
            else (FAILED, f"the bucket {name} exists, but outside this stack: import it")
        )


def _stack_has(aws: Aws, stack: str, logical_id: str) -> bool:
    try:
        aws.call("cloudformation", "describe_stack_resource", StackName=stack, LogicalResourceId=logical_id)
    except AwsError as error:
        # also the code for a stack that does not exist yet
        if error.code != "ValidationError":
            raise
        return False
    return True


CHECKS: tuple[Check, ...] = (
    vcpu_quota_is_enough,
    instance_type_is_offered,
    image_is_there,
    certificate_is_issued,
    ami_parameter_exists,
    ecs_role_exists,
    bucket_name_is_free,
)
