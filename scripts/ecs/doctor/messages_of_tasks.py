"""Messages of ECS, its agent and Docker about a task: the cause behind each, and what to do. Data only; reasons.py reads it.

Wordings are from AWS's documentation ("stopped task error messages", "service event messages") and from published logs; they
differ between versions of the agent, hence the alternatives. tests/ecs/test_messages.py has the messages themselves.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    """A pattern in the messages of some scopes, the cause behind it, and what to do."""

    scopes: str
    pattern: str
    cause: str
    advice: str


ROUTE = "the instances' subnets need a NAT gateway or endpoints for ECR, S3 and CloudWatch Logs: check the network stack"
ROLE = "the execution role lacks a permission, or ECS cannot assume it: check the identity stack"
MATCH = "the parameters Architecture, Gpu, InstanceType and AmiParameter must match each other"
AGAIN = "wait, then run make doctor again; if it lasts, see AWS's health dashboard"
# no answer to a call, in the words of Go's network package, which agent and Docker are written with, and in ECS's own
UNREACHED = (
    r"connection issue|time(d )?\s?out|dial tcp|deadline exceeded|connection (refused|reset|timed)|no such host|TLS handshake|"
    r"request (context )?cancell?ed|context cancell?ed|RequestError|server misbehaving|unexpected EOF|no route to host"
)
DENIED = r"no basic auth|Access ?Denied|Forbidden|\b403\b|not authorized|[Uu]nauthorized|denied|authorization token has expired"
# not in "assumed-role", which is in every denial
ASSUME = r"assume (the |a )?(\w+ )?role|AssumeRole"
# within a scope the first pattern counts; the last of a scope has none and is for whatever else it says
TASKS = (
    Reason(
        "pull start exit",
        r"exec format error|no matching manifest|descriptor matching platform|"
        r"does not match the (specified|detected host) platform|image operating system",
        "the image is built for another processor architecture than the instances have",
        "build it for their architecture, under a new tag, as make deploy does; "
        "Architecture, InstanceType and AmiParameter must match it",
    ),
    Reason(
        "pull start init logging",
        r"no space left on device|Thin Pool|[Dd]isk quota exceeded",
        "an instance's disk is full",
        "replace the instance, or raise DiskGiB",
    ),
    # --- pull ---
    Reason(
        "pull",
        r"toomanyrequests|rate limit|Rate exceeded|Too Many Requests",
        "the registry limits the rate of pulls",
        "wait; images in this account's ECR have no such limit, so set Image to one there, or leave it out",
    ),
    Reason(
        "pull",
        r"invalid reference format|Invalid parameter at 'image|invalid image",
        "the image's name is malformed",
        "Image must be REPOSITORY:TAG, as make deploy sets it where the deployment's file does not",
    ),
    Reason(
        "pull",
        r"unexpected status code|httpReaderSeeker: failed open: (?!.*(dial|timeout|deadline))",
        "the image's layers in S3 cannot be read",
        "the S3 endpoint's policy must allow ECR's bucket (prod-REGION-starport-layer-bucket): check the network stack",
    ),
    Reason("pull", rf"pull access denied|{DENIED}", "the registry denies pulling the image", ROLE),
    Reason("pull", UNREACHED, "the instances cannot reach the registry", ROUTE),
    Reason(
        "pull",
        r"not found|manifest unknown|NotFound|does not exist|[Cc]heck (whether|if) the image exists|manifest invalid|no such image",
        "the image is not in the registry",
        "make deploy builds and pushes a missing tag; note that the registry's lifecycle rules delete old images",
    ),
    Reason(
        "pull",
        "",
        "the image cannot be pulled",
        "check what the message names: the tag, the execution role, or the network route to the registry",
    ),
    # --- what a task needs before its container starts; before "logging", whose words may be in the same message ---
    Reason("logging", UNREACHED, "the container's log cannot be written: CloudWatch Logs is not reached", ROUTE),
    Reason(
        "logging",
        r"log group does not exist|ResourceNotFoundException|cannot find .*log group",
        "the container's log cannot be written: there is no log group",
        "the log group must exist before the service: make deploy ONLY=observability creates it (observability stack)",
    ),
    Reason("logging", DENIED, "the container's log cannot be written: the execution role may not", ROLE),
    Reason(
        "logging",
        "",
        "the container's log cannot be written",
        "check LogConfiguration in the service template: driver, group, region and prefix",
    ),
    Reason(
        "init",
        r"network interface|\bENI\b|\beni\b|netplugin|regular eni",
        "a task did not get its network interface",
        "check that its subnet has free addresses and its security group exists (network stack); else replace the instance",
    ),
    Reason("init", UNREACHED, "the instances cannot reach the registry, or the store of secrets", ROUTE),
    Reason(
        "init",
        r"env(ironment)? files?",
        "a file of environment variables cannot be read",
        "check that the object exists and that the execution role may read it",
    ),
    Reason(
        "init",
        rf"perform: ecr:|^(?!.*perform: ).*\b(ecr|ECR)\b.*({DENIED})",
        "the execution role may not log in to the registry",
        ROLE,
    ),
    Reason(
        "init",
        rf"perform: (secretsmanager|ssm|kms):|^(?!.*perform: ).*([Ss]ecret|asm|ssm|SSM).*({DENIED})",
        "the execution role may not read a secret of the task definition",
        "allow it secretsmanager:GetSecretValue or ssm:GetParameters, and kms:Decrypt for a key of your own: identity stack",
    ),
    Reason(
        "init",
        rf"{ASSUME}|NoCredentialProviders|{DENIED}",
        "the execution role may not read a secret or log in to the registry",
        ROLE,
    ),
    Reason(
        "init",
        r"did not contain json key|invalid character|invalid ssm parameters|"
        r"(secret|parameter|asm|ssm).*(not find|NotFound|not found)|"
        r"can.t find the specified secret|ResourceNotFoundException|ParameterNotFound",
        "a secret of the task definition does not exist, or lacks the field",
        "create the secret or parameter that the message names, in this region, or correct the task definition",
    ),
    Reason("init", r"EFS|volume|mount", "a volume of the task cannot be mounted", "check the volumes of the task definition"),
    Reason("init", "", "a task could not get what it needs to start", f"{ROLE}; {ROUTE}"),
    # --- Docker creates and starts the container ---
    Reason(
        "start",
        r"nvidia|device driver|\bgpu\b|libcuda",
        "the instance offers no GPU to containers",
        "use the GPU variant of the AMI (leave AmiParameter empty with Gpu: yes) and an InstanceType with a GPU",
    ),
    Reason(
        "start",
        r"executable file not found|no such file or directory|exec: |permission denied|unable to start container process",
        "the image's command cannot be run",
        "check entry point, user and read-only file system of the image: make container-test, make run-image",
    ),
    Reason(
        "start",
        r"[Nn]o such image",
        "the image was removed from the instance before the container started",
        "nothing to do if it happened once: ECS starts another task; else raise DiskGiB",
    ),
    Reason(
        "start",
        r"allocate memory|OutOfMemory|memory limit",
        "the instance has too little memory",
        "raise TaskMemory, or InstanceType",
    ),
    Reason(
        "start",
        r"[Vv]olume|mount|tmpfs",
        "a volume of the task cannot be mounted",
        "check TmpMiB, and volumes of the task definition",
    ),
    Reason(
        "start",
        r"[Tt]ime(d )?\s?out|Cannot(Inspect|Stop)Container|DockerStateError",
        "Docker on an instance does not answer in time",
        "the instance is overloaded or its disk slow: replace it, or use a larger InstanceType",
    ),
    Reason("start", "", "Docker could not start the container", "see what the message names; then make run-image tries it here"),
    # --- health ---
    Reason(
        "health",
        r"failed container health checks",
        "the container failed its own health check",
        "its last log lines say why; the start period of the check must be longer than a start takes",
    ),
    Reason(
        "health",
        r"[Tt]imed out|Target\.Timeout",
        "the load balancer's health check gets no answer",
        "the tasks' security group must allow the load balancer on the health check's port; else the server hangs: see its log",
    ),
    Reason(
        "health",
        r"these codes",
        "the task answers the load balancer's health check, but is not ready",
        "/readyz says why, and so do its last log lines; 404 means that the health check's path is wrong",
    ),
    Reason(
        "health",
        "",
        "the task failed the load balancer's health checks",
        "its log says why; if it was still loading, raise HealthCheckGracePeriod",
    ),
    # --- the instance under a task ---
    Reason(
        "instance", r"[Ss]pot", "AWS took a Spot instance back", "nothing to do if it is rare; on-demand instances are not taken"
    ),
    Reason("instance", r"[Mm]aintenance|retirement", "AWS replaced what the task ran on", "nothing to do: ECS starts another task"),
    Reason(
        "instance",
        r"[Aa]gent",
        "ECS has no connection to the agent of an instance",
        f"replace the instance; if all are affected, {ROUTE}",
    ),
    Reason("instance", r"InternalError", "an error within ECS", AGAIN),
    Reason(
        "instance",
        "",
        "the instance of a task was terminated, stopped or drained",
        "nothing to do if that was a scale-in or a replacement",
    ),
    # --- the container ran, and ended ---
    Reason(
        "exit",
        r"OutOfMemory|memory usage",
        "the container used more memory than the task has",
        "raise TaskMemory, or reduce the number of workers in handler/model-config.yaml",
    ),
    Reason(
        "exit",
        r"exit code 137",
        "the container was killed: it did not stop in time, or the instance ran out of memory",
        "raise StopTimeout if it was stopping; else raise TaskMemory or InstanceType",
    ),
    Reason(
        "exit", r"exit code 139", "a process in the container crashed", "its last log lines name it; try the image: make run-image"
    ),
    Reason("exit", "", "the server in the container ended by itself", "its last log lines say why"),
)
