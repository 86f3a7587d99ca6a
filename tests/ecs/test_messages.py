# ruff: noqa: E501 - messages as they are
"""ECS's published messages about stopped tasks and services: each has exactly one cause, and the very one that AWS's text means."""

import pytest

from scripts.ecs.doctor.doctor import main
from scripts.ecs.doctor.reasons import REASONS, SCOPES, known_reason, scope_of

PULL = "CannotPullContainerError: "
DAEMON = PULL + "Error response from daemon: "
INIT = "ResourceInitializationError: "
AUTH = INIT + "unable to pull secrets or registry auth: execution resource retrieval failed: "
START = "CannotStartContainerError: Error response from daemon: "
CREATE = "CannotCreateContainerError: Error response from daemon: "
OCI = START + "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
PLACE = "(service seefood) was unable to place a task because no container instance met all of its requirements. "
CLOSEST = PLACE + "The closest matching container-instance 1a2b "
USER = "User: arn:aws:sts::111122223333:assumed-role/ecr-ssm-secret-logs/1a2b is not authorized to perform: "
ECR = "111122223333.dkr.ecr.eu-central-1.amazonaws.com"
TARGETS = "(service seefood) (port 8080) is unhealthy in (target-group arn:aws:x:targetgroup/seefood/1) due to "

# the cause, as its first words, and messages that have it
MESSAGES = {
    # --- the image ---
    "the image is not in the registry": [
        DAEMON + f"manifest for {ECR}/x:1 not found: manifest unknown: Requested image not found",
        PULL + f"pull image manifest has been retried 1 time(s): failed to resolve ref {ECR}/x:1: {ECR}/x:1: not found",
        PULL + f"API error (404): repository {ECR}/x not found",
        PULL + "The task can't pull the image. Check whether the image exists.",
        "CannotPullImageManifestError: Error response from daemon: manifest unknown: Requested image not found",
        DAEMON + "name unknown: The repository with name 'x' does not exist in the registry with id '111122223333'",
    ],
    "the registry denies": [
        DAEMON + "pull access denied for x, repository does not exist or may require 'docker login': denied: " + USER
        + "ecr:BatchGetImage on resource: arn:aws:ecr:x because no identity-based policy allows it",
        DAEMON + f"Head https://{ECR}/v2/x/manifests/1: no basic auth credentials",
        PULL + "AccessDeniedException: " + USER + "ecr:GetAuthorizationToken on resource: *",
        DAEMON + "denied: Your authorization token has expired. Reauthenticate and try again.",
        DAEMON + "unauthorized: authentication required",
        PULL + "failed to resolve ref x: failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
        PULL + "The task can't pull the image from Amazon Elastic Container Registry using the task execution role "
        "'arn:aws:iam::1:role/x'. " + USER + "ecr:BatchGetImage",
    ],
    "the instances cannot reach the registry": [
        PULL + f"API error (500): Get https://{ECR}/v2/: net/http: request canceled while waiting for connection",
        DAEMON + f"Get https://{ECR}/v2/: dial tcp 10.0.0.1:443: i/o timeout",
        DAEMON + f"Get https://{ECR}/v2/: net/http: TLS handshake timeout",
        PULL + "context canceled",
        PULL + f"pull command failed: panic: dial tcp: lookup {ECR}: no such host",
        PULL + "ref pull has been retried 5 time(s): failed to copy: httpReaderSeeker: failed open: failed to do request: Get "
        '"https://prod-eu-central-1-starport-layer-bucket.s3.eu-central-1.amazonaws.com/1": dial tcp 52.219.1.2:443: i/o timeout',
        PULL + "There is a connection issue between the task and the registry. Check your task network configuration.",
        DAEMON + f"Get https://{ECR}/v2/: read tcp 10.0.0.1:1->10.0.0.2:443: read: connection reset by peer",
        PULL + "pull image manifest has been retried 5 time(s): failed to do request: context deadline exceeded",
    ],
    "the image's layers in S3": [
        PULL + "ref pull has been retried 1 time(s): failed to copy: httpReaderSeeker: failed open: unexpected status code "
        "https://prod-eu-central-1-starport-layer-bucket.s3.amazonaws.com/1: 403 Forbidden",
        PULL + "ref pull has been retried 1 time(s): failed to copy: httpReaderSeeker: failed open: unexpected status code",
    ],
    "the registry limits": [
        PULL + "ERROR: toomanyrequests: Too Many Requests.",
        DAEMON + "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
        DAEMON + "toomanyrequests: Rate exceeded",
    ],
    "the image's name is malformed": [
        PULL + "invalid reference format",
        PULL + "inspect image has been retried 1 time(s): InvalidParameterException: Invalid parameter at 'imageTag'",
    ],
    "the image cannot be pulled": [DAEMON + "failed to register layer: Error processing tar file(exit status 1): invalid tar header"],
    "the image is built for another processor": [
        DAEMON + "no matching manifest for linux/arm64/v8 in the manifest list entries",
        PULL + "image Manifest does not contain descriptor matching platform 'linux/amd64'",
        OCI + "exec format error: unknown",
        "Essential container in task exited; container seefood: exit code 255\nexec /usr/bin/tini: exec format error",
    ],
    "an instance's disk is full": [
        PULL + "write /var/lib/docker/tmp/GetImageBlob111: no space left on device",
        DAEMON + "failed to register layer: write /x: no space left on device",
        CREATE + "devmapper: Thin Pool has 4350 free data blocks which is less than minimum required 4454 free data blocks.",
        "CannotCreateContainerError: API error (500): devmapper: Thin Pool has 1 free data blocks",
        START + "failed to copy: open /var/lib/docker/x: no space left on device",
    ],
    # --- logs ---
    "the container's log cannot be written: there is no log group": [
        INIT + "failed to validate logger args: The task cannot find the Amazon CloudWatch log group '/x' defined in the task.",
        START + "failed to initialize logging driver: failed to create Cloudwatch log stream: ResourceNotFoundException: The "
        "specified log group does not exist.",
        INIT + "failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: "
        "ResourceNotFoundException: The specified log group does not exist. : exit status 1",
    ],
    "the container's log cannot be written: the execution role": [
        INIT + "failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: "
        "AccessDeniedException: " + USER + "logs:CreateLogStream",
    ],
    "the container's log cannot be written: CloudWatch": [
        INIT + "The task cannot find the Amazon CloudWatch log group defined in the task definition. There is a connection issue between "
        "the task and Amazon CloudWatch. Check your network configuration.",
        INIT + "failed to validate logger args: failed to create Cloudwatch log stream: RequestCanceled: request context canceled "
        "caused by: context deadline exceeded : exit status 1",
        START + "failed to initialize logging driver: Post https://logs.eu-central-1.amazonaws.com: dial tcp 1.2.3.4:443: i/o timeout",
    ],
    "the container's log cannot be written": [
        START + "failed to initialize logging driver: unknown log opt 'awslogs-colour' for awslogs log driver",
        INIT + "failed to validate logger args: : signal: killed",
    ],
    # --- secrets, and the login to the registry ---
    "the instances cannot reach the registry, or": [
        AUTH + "unable to retrieve ecr registry auth: service call has been retried 3 time(s): RequestError: send request failed "
        'caused by: Post "https://api.ecr.eu-central-1.amazonaws.com/": dial tcp 1.2.3.4:443: i/o timeout. Please check your task '
        "network configuration.",
        INIT + "unable to pull secrets or registry auth: The task cannot pull registry auth from Amazon ECR: There is a connection "
        "issue between the task and Amazon ECR. Check your task network configuration.",
        INIT + "unable to pull secrets or registry auth: there is a connection issue",
        AUTH + "unable to retrieve secret from asm: There is a connection issue between the task and AWS Secrets Manager. Check your "
        "task network configuration. failed to fetch secret arn:x from secrets manager: RequestCanceled: request context canceled",
        AUTH + "unable to retrieve secrets from ssm: service call has been retried 5 time(s): RequestCanceled: request context "
        "canceled caused by: context deadline exceeded",
    ],
    "the execution role may not log in": [
        AUTH + "unable to retrieve ecr registry auth: service call has been retried 1 time(s): AccessDeniedException: " + USER
        + "ecr:GetAuthorizationToken on resource: *",
    ],
    "the execution role may not read a secret of": [
        AUTH + "unable to get registry auth from asm: service call has been retried 1 time(s): asm fetching secret from the service "
        "for x: AccessDeniedException",
        AUTH + "unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret arn:x from "
        "secrets manager: AccessDeniedException: " + USER + "secretsmanager:GetSecretValue on resource: arn:x",
        AUTH + "unable to retrieve secrets from ssm: AccessDeniedException: " + USER + "ssm:GetParameters on resource: arn:x",
        "Fetching secret data from SSM Parameter Store in eu-central-1: AccessDeniedException: " + USER + "ssm:GetParameters",
        "Fetching secret data from AWS Secrets Manager in region eu-central-1: secret x: AccessDeniedException: Access to KMS is "
        "not allowed",
    ],
    "the execution role may not read a secret or": [
        INIT + "unable to pull secrets or registry auth: unable to get registry auth from ECR: NoCredentialProviders: no valid providers",INIT + "unable to pull secrets or registry auth: AccessDenied"],
    "a secret of the task definition does not exist": [
        AUTH + "unable to retrieve secret from asm: service call has been retried 1 time(s): retrieved secret from Secrets Manager "
        "did not contain json key password",
        AUTH + "unable to retrieve secret from asm: failed to fetch secret arn:x from secrets manager: ResourceNotFoundException: "
        "Secrets Manager can't find the specified secret.",
        AUTH + "unable to retrieve secrets from ssm: invalid ssm parameters: /seefood/token",
        AUTH + "unable to retrieve secret from asm: invalid character 'h' looking for beginning of value",
        "Fetching secret data from SSM Parameter Store in eu-central-1: invalid parameters: /seefood/token: ParameterNotFound",
    ],
    "a file of environment variables": [
        INIT + "failed to download env files: file download command: non empty error stream: AccessDenied",
        INIT + "failed to download env files: file download command: non empty error stream: RequestFailure: NotFound 404"
    ],
    "a volume of the task cannot be mounted": [
        INIT + "failed to invoke EFS utils commands to set up EFS volumes: stderr: mount.nfs4: access",
        "CannotCreateVolumeError: agent could not create volume x",
        CREATE + "invalid volume specification: 'x:'",
    ],
    "a task did not get its network interface": [
        INIT + "failed to configure ENI: failed to setup regular eni: netplugin failed with no error message",
        "Timeout waiting for network interface provisioning to complete.",
        "TaskFailedToStart: Unexpected EC2 error while attempting to create the network interface in subnet 'subnet-1': "
        "InsufficientFreeAddressesInSubnet",
    ],
    "a task could not get what it needs": [
        INIT + "failed to create new container runtime task: OCI",
        "Timeout waiting for EphemeralStorage provisioning to complete.",
    ],
    # --- starting ---
    "the instance offers no GPU": [
        CREATE + 'could not select device driver "nvidia" with capabilities: [[gpu]]',
        OCI + "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
    ],
    "the image's command cannot be run": [
        OCI + 'unable to start container process: exec: "python": executable file not found in $PATH: unknown',
        OCI + 'unable to start container process: exec: "/start.sh": permission denied: unknown',
        OCI + 'unable to start container process: exec: "/start.sh": stat /start.sh: no such file or directory: unknown',
    ],
    "the image was removed": [CREATE + f"No such image: {ECR}/x:1"],
    "the instance has too little memory": [START + "fork/exec /usr/bin/containerd-shim: cannot allocate memory"],
    "Docker on an instance does not answer": [
        "DockerTimeoutError: Could not transition to created; timed out after waiting 4m0s",
        "ContainerRuntimeTimeoutError: Could not transition to running; timed out after waiting 1m: <reason>",
        "CannotStopContainerError: failed sending SIGTERM to container: context deadline exceeded",
        "CannotInspectContainerError: Could not transition to inspecting; timed out after waiting 30s",
    ],
    "Docker could not start": [
        "CannotStartContainerError: failed to get container status: <reason>",
        CREATE + 'Conflict. The container name "/ecs-seefood-1" is already in use by container "1"',
        "ContainerRuntimeError: failed to create container",
        "Task failed to start",
        "TaskFailedToStart",
    ],
    # --- running ---
    "the container used more memory": [
        "Essential container in task exited; container seefood: exit code 137 (killed: SIGKILL), OutOfMemoryError: Container killed "
        "due to memory usage",
        "OutOfMemoryError: Container killed due to memory usage",
    ],
    "the container was killed": ["Essential container in task exited; container seefood: exit code 137 (killed: SIGKILL)"],
    "a process in the container crashed": [
        "Essential container in task exited; container seefood: exit code 139 (segmentation fault)"
    ],
    "the server in the container ended": [
        "Essential container in task exited; container seefood: exit code 1",
        "EssentialContainerExited: Essential container in task exited",
    ],
    "the container failed its own": ["Task failed container health checks"],
    "the task failed the load balancer's": [
        "Task failed ELB health checks in (target-group arn:aws:x)",
        TARGETS + "(reason Health checks failed)",
        "(service seefood) (instance i-1) is unhealthy in (elb x) due to (reason Instance has failed at least the "
        "UnhealthyThreshold number of health checks consecutively.)",
    ],
    "the load balancer's health check gets no answer": [TARGETS + "(reason Request timed out)"],
    "the task answers the load balancer's": [TARGETS + "(reason Health checks failed with these codes: [503])"],
    # --- the instance ---
    "the instance of a task": [
        "Host EC2 (instance i-0123456789abcdef0) terminated.",
        "Host EC2 (instance i-0123456789abcdef0) stopped.",
        "Container instance deregistration forced by user.",
        "Task stopped as its container instance is being drained",
    ],
    "AWS took a Spot instance back": [
        "Your Spot Task was interrupted.",
        "SpotInterruptionError: Your Spot Task was interrupted",
        "Host EC2 (instance i-1) received a spot interruption notice",
    ],
    "AWS replaced what": ["ECS is performing maintenance on the underlying infrastructure hosting the task."],
    "an error within ECS": [
        "InternalError: The task failed to start because of an internal error",
        "(service seefood) was unable to place a task. Reason: Internal error.",
    ],
    "ECS has no connection to the agent": [
        CLOSEST + 'encountered error "AGENT".',
        "TaskFailedToStart: AGENT",
        "Timed out waiting for Amazon ECS Agent to start",
    ],
    # --- placement ---
    "no instance has joined": [
        PLACE + "Reason: No Container Instances were found in your cluster.",
        PLACE + "Reason: No Container Instances were found in your capacity provider.",
        "TaskFailedToStart: EMPTY CAPACITY PROVIDER",
        "TaskFailedToStart: NO ACTIVE INSTANCES",
    ],
    "no instance has enough free": [
        CLOSEST + "has insufficient CPU units available.",
        CLOSEST + "has insufficient memory available.",
        CLOSEST + "has insufficient GPU resource available.",
        "Unable to place: RESOURCE:MEMORY",
        CLOSEST + 'encountered error "RESOURCE:CPU".',
        "TaskFailedToStart: RESOURCE",
        "TaskFailedToStart: RESOURCE:MEMORY",
    ],
    "no instance has a free network interface": [
        CLOSEST + 'encountered error "RESOURCE:ENI".',
        CLOSEST + "has insufficient ENI attachment points available.",
    ],
    "the port of the task": [
        CLOSEST + "is already using a port required by your task.",
        CLOSEST + 'encountered error "RESOURCE:PORTS".',
        CLOSEST + "can not exceed the maximum allowed reserved port limit of 100 host ports per container instance.",
    ],
    "no instance meets the task definition's": [
        CLOSEST + "is missing an attribute required by your task.",
        CLOSEST + 'encountered error "ATTRIBUTE".',
        "TaskFailedToStart: ATTRIBUTE",
        "TaskFailedToStart: MemberOf placement constraint unsatisfied",
        CLOSEST + "encountered error: MemberOf placement constraint unsatisfied.",
    ],
    "no instance meets all requirements": [
        PLACE,
        "(service seefood) is unable to place a task in Availability Zone eu-central-1a because no container instance met all of "
        "its requirements.",
    ],
    "a quota of the account": [
        "(service seefood) was unable to place a task. Reason: VcpuLimitExceeded: You have requested more vCPU capacity than your "
        "current vCPU limit of 1",
        "(service seefood) was unable to place a task. Reason: You've reached the limit on the number of tasks you can run "
        "concurrently.",
        "(service seefood) was unable to place a task. Reason: You've reached the limit on the number of vCPUs you can run "
        "concurrently.",
        "(service seefood) was unable to place a task. Reason: The requested CPU configuration is above your limit.",
        "(service seefood) was unable to place a task. Reason: The requested MEMORY configuration is above your limit.",
    ],
    "AWS has no capacity": [
        "(service seefood) was unable to place a task. Reason: Capacity is unavailable at this time. Please try again later or in a "
        "different availability zone.",
    ],
    "the capacity provider": [
        "(service seefood) was unable to place a task. Reason: The specified capacity provider 'x' was not found.",
        "InvalidParameterException: The capacity provider strategy cannot contain a capacity provider that is not ACTIVE",
    ],
    # --- the service ---
    "ECS cannot assume a role of the task": [
        "ECS was unable to assume the role 'arn:aws:iam::1:role/x' that was provided for this task. Please verify that the role "
        "being passed has the proper trust relationship and permissions",
        "(service seefood) failed to launch a task with (error ECS was unable to assume the role 'arn:aws:iam::1:role/x' that was "
        "provided for this task.)",
    ],
    "ECS cannot assume its service-linked role": [
        "Unable to assume the service linked role. Please verify that the ECS service linked role exists.",
        "InvalidParameterException: Unable to assume the service linked role. Please verify that the ECS service linked role exists.",
    ],
    "ECS cannot register a task": [
        "(service seefood) failed to register targets in (target-group arn:x) with (error TargetGroupNotFound: gone)",
        "InvalidParameterException: The target group with targetGroupArn arn:x does not have an associated load balancer.",
        "InvalidParameterException: The provided target group arn:x has target type instance, which is incompatible with the awsvpc "
        "network mode specified in the task definition.",
        "(service seefood) failed to register targets in (target-group arn:x) with (error AccessDenied: " + USER
        + "elasticloadbalancing:RegisterTargets)",
    ],
    "AWS limits the rate": ["(service seefood) operations are being throttled. Will try again later."],
    "the deployment's limits": [
        "(service seefood) was unable to stop or start tasks during a deployment because of the service deployment configuration. "
        "Update the minimumHealthyPercent or maximumPercent value and try again.",
    ],
    "more tasks are protected": [
        "(service seefood) was unable to reach steady state because task set (ecs-svc/1) was unable to scale in. Reason: The number "
        "of protected tasks are more than the desired count of tasks.",
    ],
    "the task definition was deregistered": [
        "(service seefood) failed to launch a task with (error ClientException: TaskDefinition is inactive)",
    ],
    "a subnet or security group": [
        "(service seefood) failed to launch a task with (error InvalidParameterException: The subnet ID 'subnet-1' does not exist)",
    ],
    "ECS cannot do what": ["(service seefood) was unable to do something that no documentation names."],
    "an alarm went off": ["(service seefood) (deployment ecs-svc/1) deployment failed: alarm detected."],
    "the tasks of the deployment fail": [
        "(service seefood) (deployment ecs-svc/1) deployment failed: tasks failed to start.",
        "(service seefood) rolling back to deployment ecs-svc/2.",
        "ECS deployment circuit breaker: tasks failed to start.",
        "(service seefood) is unable to consistently start tasks successfully.",
    ],
}  # fmt: skip
NORMAL = [
    "(service seefood) has started 1 tasks: (task 1a2b).",
    "(service seefood) registered 1 targets in (target-group arn:x)",
    "(service seefood) deregistered 1 targets in (target-group arn:x)",
    "(service seefood) has begun draining connections on 1 tasks.",
    "(service seefood) has stopped 1 running tasks: (task 1a2b).",
    "(service seefood) has reached a steady state.",
    "(service seefood) (deployment ecs-svc/1) deployment completed.",
    "(service seefood) updated computedDesiredCount to 2.",
    "(service seefood) is AZ balanced with 1 tasks in eu-central-1a",
]


@pytest.mark.parametrize(
    ("cause", "message"), [(cause, message) for cause, messages in MESSAGES.items() for message in messages], ids=str
)
def test_message_has_its_cause(cause, message):
    reason = known_reason(message)
    assert reason is not None
    assert reason.cause.startswith(cause), f"{scope_of(message)}: {reason.cause}"


def test_every_cause_has_a_message_and_every_message_is_listed_once():
    messages = [message for listed in MESSAGES.values() for message in listed]
    assert len(messages) == len(set(messages)) > 100
    assert [reason.cause for reason in REASONS if reason not in {known_reason(message) for message in messages}] == []
    assert {scope for reason in REASONS for scope in reason.scopes.split()} == set(SCOPES)


@pytest.mark.parametrize("message", NORMAL)
def test_message_of_every_day_has_none(message):
    assert known_reason(message) is None


def test_doctor_lists_every_cause_with_what_to_do(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {reason.cause}\n    -> {reason.advice}\n" in printed + "\n" for reason in REASONS)
