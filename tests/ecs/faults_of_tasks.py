"""Faults of stacks, instances, capacity, tasks and containers, each with the rule that must report it."""

from tests.ecs.template_faults import (
    CONTAINER,
    LAUNCH,
    NETWORK,
    SCALING,
    SERVICE,
    TARGETS,
    allow,
    append,
    att,
    drop,
    fault,
    gone,
    made,
    moved,
    not_allowed,
    output,
    put,
    ref,
    replaced,
    sub,
    trust,
    user_data,
)

AMI = "resolve:ssm:/aws/service/ecs/optimized-ami/amazon-linux-2023"
GPU = {"InstanceType": "g5.xlarge", "Gpu": "yes", "TaskCpu": "4096", "TaskMemory": "12288"}
BRIDGE = (
    put("service/TaskDefinition/NetworkMode", "bridge"),
    put(f"{TARGETS}/TargetType", "instance"),
    drop(f"{SERVICE}/NetworkConfiguration"),
)
ROOT_VOLUME = f"{LAUNCH}/BlockDeviceMappings/0/Ebs"
LOGS = f"{CONTAINER}/LogConfiguration"
CHECK = f"{CONTAINER}/HealthCheck"
IMAGE = f"{CONTAINER}/Image"
ECR = "111122223333.dkr.ecr.eu-central-1.amazonaws.com"
SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:key-AbCdEf"
READ_SECRET = append("identity/ExecutionRole/Policies", allow("secretsmanager:GetSecretValue"))
OWN_SECRET = (
    made(
        "service",
        "Key",
        "SecretsManager::Secret",
        GenerateSecretString={"SecretStringTemplate": '{"user": "a"}', "GenerateStringKey": "key"},
    ),
    READ_SECRET,
)


def secret(value):
    return put(f"{CONTAINER}/Secrets", [{"Name": "KEY", "ValueFrom": value}])


def member_of(place, expression):
    return put(place, [{"Type": "memberOf", "Expression": expression}])


def start(line):
    return put(f"{LAUNCH}/UserData", user_data(f"#!/bin/bash\n{line}\necho ECS_RESERVED_MEMORY=256 >> /etc/ecs/ecs.config\n"))


STACKS = [
    fault("parts-are-there", "service removed", gone("service", "Service")),
    fault("parts-are-there", "capacity provider removed", gone("cluster", "CapacityProvider")),
    fault("parts-are-there", "no launch template", gone("cluster", "LaunchTemplate")),
    fault("parts-are-there", "task definition that is not there", put(f"{SERVICE}/TaskDefinition", "seefood-old:7")),
    fault("parts-are-there", "task definition of a wrong type", put(f"{SERVICE}/TaskDefinition", ref("TargetGroup"))),
    fault("parts-are-there", "no containers", put("service/TaskDefinition/ContainerDefinitions", [])),
    fault("parts-are-there", "depends on nothing", put(f"{SERVICE}/DependsOn", ["HttpsListener", "Nobody"])),
    fault("parts-are-there", "output taken away", output("network", "PrivateSubnets", None)),
    fault("parts-are-there", "value that the parameter refuses", MaxTasks="0"),
    fault("parts-are-there", "text where a number belongs", TaskMemory="3 GB"),
    fault("parts-are-there", "a network without its subnets", ExistingVpcId="vpc-1"),
    fault("outputs-match-their-names", "the other role", output("identity", "TaskRoleArn", att("TaskRole", "RoleId"))),
    fault("outputs-match-their-names", "a profile's role", output("identity", "InstanceProfileArn", att("InstanceRole", "Arn"))),
    fault("outputs-match-their-names", "registry's name for its address", output("storage", "RepositoryUri", ref("Repository"))),
    fault("outputs-match-their-names", "missing", output("storage", "BucketName", None)),
]

INSTANCES = [
    fault("instances-can-start", "no instance allowed", put("cluster/AutoScalingGroup/MaxSize", 0)),
    fault("instances-can-start", "no instance allowed, as text", put("cluster/AutoScalingGroup/MaxSize", "0")),
    fault("instances-can-start", "MaxSize missing", drop("cluster/AutoScalingGroup/MaxSize")),
    fault("instances-can-start", "more at least than at most", MinInstances="5", MaxInstances="4"),
    fault("instances-can-start", "more desired than at most", put("cluster/AutoScalingGroup/DesiredCapacity", "9")),
    fault("instances-can-start", "no subnet", put("cluster/AutoScalingGroup/VPCZoneIdentifier", [])),
    fault("instances-have-launch-template", "none", drop("cluster/AutoScalingGroup/LaunchTemplate")),
    fault(
        "instances-have-launch-template", "another's", put("cluster/AutoScalingGroup/LaunchTemplate/LaunchTemplateId", "lt-0123")
    ),
    fault("instances-have-launch-template", "no version", drop("cluster/AutoScalingGroup/LaunchTemplate/Version")),
    fault(
        "instances-have-launch-template",
        "its own id as version",
        put("cluster/AutoScalingGroup/LaunchTemplate/Version", ref("LaunchTemplate")),
    ),
    fault("instances-join-cluster", "no user data", drop(f"{LAUNCH}/UserData")),
    fault("instances-join-cluster", "ECS_CLUSTER missing", start("")),
    fault("instances-join-cluster", "another cluster", start("echo ECS_CLUSTER=default >> /etc/ecs/ecs.config")),
    fault("instances-join-cluster", "its stack's name", start("echo ECS_CLUSTER=${AWS::StackName} >> /etc/ecs/ecs.config")),
    fault("instances-join-cluster", "its ARN", start("echo ECS_CLUSTER=${Cluster.Arn} >> /etc/ecs/ecs.config")),
    fault("instances-join-cluster", "commented out", start("# ECS_CLUSTER=${Cluster} /etc/ecs/ecs.config")),
    fault("instances-join-cluster", "misspelt", start("echo ECS_CLUSTERS=${Cluster} >> /etc/ecs/ecs.config")),
    fault(
        "instances-join-cluster",
        "overridden afterwards",
        start("echo ECS_CLUSTER=${Cluster} >> /etc/ecs/ecs.config\necho ECS_CLUSTER=x >> /etc/ecs/ecs.config"),
    ),
    fault("instances-join-cluster", "into another file", replaced(f"{LAUNCH}/UserData", "/etc/ecs/ecs.config", "/etc/ecs.config")),
    fault("instances-join-cluster", "no shebang", replaced(f"{LAUNCH}/UserData", "#!/bin/bash\n", "")),
    fault(
        "instances-join-cluster",
        "not encoded",
        put(f"{LAUNCH}/UserData", "#!/bin/bash\necho ECS_CLUSTER=seefood >> /etc/ecs/ecs.config"),
    ),
    fault(
        "agent-can-run-tasks",
        "no roles for tasks",
        replaced(f"{LAUNCH}/UserData", "ECS_RESERVED_MEMORY", "ECS_ENABLE_TASK_IAM_ROLE=false\nECS_RESERVED_MEMORY"),
    ),
    fault(
        "agent-can-run-tasks",
        "another log driver",
        replaced(
            f"{LAUNCH}/UserData", "ECS_RESERVED_MEMORY", "ECS_AVAILABLE_LOGGING_DRIVERS='[\"json-file\"]'\nECS_RESERVED_MEMORY"
        ),
    ),
    fault("agent-can-run-tasks", "no memory reserved", replaced(f"{LAUNCH}/UserData", "ECS_RESERVED_MEMORY=256", "")),
    fault(
        "agent-can-run-tasks",
        "reserved in gigabytes",
        replaced(f"{LAUNCH}/UserData", "ECS_RESERVED_MEMORY=256", "ECS_RESERVED_MEMORY=1"),
    ),
    fault("instances-reach-metadata", "switched off", put(f"{LAUNCH}/MetadataOptions/HttpEndpoint", "disabled")),
    fault("instances-reach-metadata", "version 1", put(f"{LAUNCH}/MetadataOptions/HttpTokens", "optional")),
    fault("instances-reach-metadata", "left out", drop(f"{LAUNCH}/MetadataOptions")),
    fault("instances-have-profile", "none", drop(f"{LAUNCH}/IamInstanceProfile")),
    fault(
        "instances-have-profile",
        "a role's ARN",
        put("cluster/LaunchTemplate/LaunchTemplateData/IamInstanceProfile", {"Arn": "arn:aws:iam::111122223333:role/x"}),
    ),
    fault(
        "instances-have-profile", "its ARN as its name", put(f"{LAUNCH}/IamInstanceProfile", {"Name": ref("InstanceProfileArn")})
    ),
    fault("instances-have-profile", "without a role", put("identity/InstanceProfile/Roles", [])),
    fault("instances-have-profile", "with a role's ARN", put("identity/InstanceProfile/Roles", [att("InstanceRole", "Arn")])),
    fault("instance-role-may-join", "may not register", not_allowed("identity", "InstanceRole", "ecs:RegisterContainerInstance")),
    fault("instance-role-may-join", "may not poll", not_allowed("identity", "InstanceRole", "ecs:Poll")),
    fault("instance-role-may-join", "no policies", put("identity/InstanceRole/Policies", [])),
    fault(
        "instance-role-may-join",
        "the policy of tasks",
        put("identity/InstanceRole/Policies", []),
        put("identity/InstanceRole/ManagedPolicyArns", ["arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"]),
    ),
    fault("instance-role-may-join", "the task's role in the profile", put("identity/InstanceProfile/Roles", [ref("TaskRole")])),
    fault(
        "instance-role-may-join",
        "of another cluster",
        replaced("identity/InstanceRole/Policies", "cluster/${Name}", "cluster/other"),
    ),
    fault("ami-is-for-ecs", "a plain AMI", put(f"{LAUNCH}/ImageId", "ami-0123456789abcdef0")),
    fault(
        "ami-is-for-ecs",
        "plain Amazon Linux",
        put(f"{LAUNCH}/ImageId", "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"),
    ),
    fault("ami-is-for-ecs", "the parameter with JSON", put(f"{LAUNCH}/ImageId", f"{AMI}/recommended")),
    fault("ami-is-for-ecs", "for ARM", put(f"{LAUNCH}/ImageId", f"{AMI}/arm64/recommended/image_id")),
    fault("ami-is-for-ecs", "for x86 on Graviton", InstanceType="c7g.large", Architecture="ARM64"),
    fault("ami-is-for-ecs", "without drivers for the GPU", put(f"{LAUNCH}/ImageId", f"{AMI}/recommended/image_id"), **GPU),
    fault(
        "ami-is-for-ecs",
        "for a GPU that is not there",
        AmiParameter="/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id",
    ),
    fault("ami-is-for-ecs", "none", drop(f"{LAUNCH}/ImageId")),
    fault("root-volume-holds-ami", "too small", put(f"{ROOT_VOLUME}/VolumeSize", "8")),
    fault("root-volume-holds-ami", "another device", put(f"{LAUNCH}/BlockDeviceMappings/0/DeviceName", "/dev/sda1")),
    fault("root-volume-holds-ami", "not encrypted", put(f"{ROOT_VOLUME}/Encrypted", "false")),
]

ROOM = [
    fault("instance-type-is-known", "misspelt", InstanceType="c7i.largo"),
    fault("instance-type-is-known", "none", drop(f"{LAUNCH}/InstanceType")),
    fault("task-fits-instance", "all of the installed memory", TaskMemory="4096"),
    fault("task-fits-instance", "what is left without the system's part", TaskMemory="3700"),
    fault("task-fits-instance", "more cores than there are", TaskCpu="4096"),
    fault("task-fits-instance", "a smaller instance", InstanceType="t3.small"),
    fault(
        "task-fits-instance", "more reserved", replaced(f"{LAUNCH}/UserData", "ECS_RESERVED_MEMORY=256", "ECS_RESERVED_MEMORY=1024")
    ),
    fault(
        "task-fits-instance",
        "one of several types is smaller",
        put(
            "cluster/AutoScalingGroup/MixedInstancesPolicy",
            {
                "LaunchTemplate": {
                    "LaunchTemplateSpecification": {"LaunchTemplateId": ref("LaunchTemplate"), "Version": "1"},
                    "Overrides": [{"InstanceType": "c7i.large"}, {"InstanceType": "t3.small"}],
                }
            },
        ),
        drop("cluster/AutoScalingGroup/LaunchTemplate"),
    ),
    fault("task-fits-instance", "GPU task without GPU", put(f"{CONTAINER}/ResourceRequirements", [{"Type": "GPU", "Value": 1}])),
    fault(
        "task-fits-instance", "two GPUs of one", put(f"{CONTAINER}/ResourceRequirements", [{"Type": "GPU", "Value": "2"}]), **GPU
    ),
    fault("task-fits-instance", "GPU instance, and task without", drop(f"{CONTAINER}/ResourceRequirements"), **GPU),
    fault("deployment-has-room", "one instance", MaxInstances="1"),
    fault("deployment-has-room", "one fewer than old and new tasks", MaxInstances="3"),
    fault("deployment-has-room", "more tasks", MaxTasks="3"),
    fault(
        "deployment-has-room",
        "too few network interfaces",
        InstanceType="c7i.2xlarge",
        TaskCpu="1024",
        TaskMemory="2048",
        MaxTasks="12",
        MaxInstances="5",
    ),
    fault(
        "deployment-has-room",
        "one on each instance",
        put(f"{SERVICE}/PlacementConstraints", [{"Type": "distinctInstance"}]),
        InstanceType="c7i.2xlarge",
        MaxInstances="2",
    ),
    fault(
        "placement-can-be-met",
        "another type",
        member_of(f"{SERVICE}/PlacementConstraints", "attribute:ecs.instance-type =~ g5.*"),
    ),
    fault(
        "placement-can-be-met",
        "another zone, of the task",
        member_of("service/TaskDefinition/PlacementConstraints", "attribute:ecs.availability-zone in [us-east-1a, us-east-1b]"),
    ),
    fault(
        "placement-can-be-met",
        "an attribute that nobody sets",
        member_of(f"{SERVICE}/PlacementConstraints", "attribute:stack == production"),
    ),
    fault("scaling-out-is-managed", "disabled", put(f"{SCALING}/ManagedScaling/Status", "DISABLED")),
    fault("scaling-out-is-managed", "left out", drop(f"{SCALING}/ManagedScaling")),
    fault("scaling-out-is-managed", "no group", put(f"{SCALING}/AutoScalingGroupArn", ref("Cluster"))),
    fault("scaling-out-is-managed", "target of nothing", put(f"{SCALING}/ManagedScaling/TargetCapacity", 0)),
    fault(
        "scaling-in-spares-tasks", "group does not protect", put("cluster/AutoScalingGroup/NewInstancesProtectedFromScaleIn", False)
    ),
    fault("scaling-in-spares-tasks", "group says nothing", drop("cluster/AutoScalingGroup/NewInstancesProtectedFromScaleIn")),
    fault("scaling-in-spares-tasks", "provider does not protect", put(f"{SCALING}/ManagedTerminationProtection", "DISABLED")),
    fault("scaling-in-spares-tasks", "no draining", put(f"{SCALING}/ManagedDraining", "DISABLED")),
    fault("capacity-provider-is-the-clusters", "association removed", gone("cluster", "ClusterCapacityProviders")),
    fault(
        "capacity-provider-is-the-clusters",
        "association without it",
        put("cluster/ClusterCapacityProviders/CapacityProviders", ["FARGATE"]),
    ),
    fault(
        "capacity-provider-is-the-clusters",
        "association of another cluster",
        put("cluster/ClusterCapacityProviders/Cluster", "default"),
    ),
    fault(
        "capacity-provider-is-the-clusters",
        "Fargate",
        put(f"{SERVICE}/CapacityProviderStrategy", [{"CapacityProvider": "FARGATE", "Weight": 1}]),
    ),
    fault("capacity-provider-is-the-clusters", "another name", put("cluster/CapacityProvider/Name", "ecs-seefood")),
]

TASKS = [
    fault("network-mode-fits-target-type", "ip with bridge", put("service/TaskDefinition/NetworkMode", "bridge")),
    fault("network-mode-fits-target-type", "ip with the default", drop("service/TaskDefinition/NetworkMode")),
    fault("network-mode-fits-target-type", "instance with awsvpc", put(f"{TARGETS}/TargetType", "instance")),
    fault("network-mode-fits-target-type", "default type with awsvpc", drop(f"{TARGETS}/TargetType")),
    fault("network-configuration-fits-mode", "none", drop(f"{SERVICE}/NetworkConfiguration")),
    fault("network-configuration-fits-mode", "no subnets", put(f"{NETWORK}/Subnets", [])),
    fault("network-configuration-fits-mode", "public addresses", put(f"{NETWORK}/AssignPublicIp", "ENABLED")),
    fault("network-configuration-fits-mode", "with bridge", put("service/TaskDefinition/NetworkMode", "bridge")),
    fault("network-configuration-fits-mode", "a role", put(f"{SERVICE}/Role", "ecsServiceRole")),
    fault("network-configuration-fits-mode", "network mode none", put("service/TaskDefinition/NetworkMode", "none")),
    fault("host-ports-are-free", "fixed with bridge", *BRIDGE, put(f"{CONTAINER}/PortMappings/0/HostPort", 8080)),
    fault("host-ports-are-free", "fixed with bridge, as text", *BRIDGE, put(f"{CONTAINER}/PortMappings/0/HostPort", "80")),
    fault("host-ports-are-free", "network of the host", put("service/TaskDefinition/NetworkMode", "host")),
    fault("host-ports-are-free", "another with awsvpc", put(f"{CONTAINER}/PortMappings/0/HostPort", 80)),
    fault("host-ports-are-free", "0 with awsvpc", put(f"{CONTAINER}/PortMappings/0/HostPort", "0")),
    fault("image-comes-from-our-registry", "a public one", Image="nginx:1.27"),
    fault("image-comes-from-our-registry", "another region", Image="111122223333.dkr.ecr.us-east-1.amazonaws.com/seefood:1.0.0"),
    fault(
        "image-comes-from-our-registry",
        "another registry",
        put("storage/Repository/RepositoryName", "seefood"),
        Image=f"{ECR}/other:1.0.0",
    ),
    fault("image-is-there-first", "registry in the service's stack", moved("storage", "Repository", "service")),
    fault(
        "image-is-there-first",
        "image of a second registry there",
        made("service", "Images", "ECR::Repository", ImageTagMutability="IMMUTABLE", RepositoryName="own"),
        put(IMAGE, sub("${Images.RepositoryUri}:1")),
    ),
    fault("image-tag-is-fixed", "latest", Image=f"{ECR}/seefood:latest"),
    fault("image-tag-is-fixed", "none", put(IMAGE, f"{ECR}/seefood")),
    fault(
        "image-tag-is-fixed",
        "a sidecar's latest",
        append("service/TaskDefinition/ContainerDefinitions", {"Name": "sidecar", "Image": "busybox"}),
    ),
    fault("architecture-matches", "ARM on x86", Architecture="ARM64"),
    fault(
        "image-is-built-for-its-task",
        "a GPU for an image without CUDA",
        put("service/TaskDefinition/ContainerDefinitions/0/ResourceRequirements", [{"Type": "GPU", "Value": "1"}]),
    ),
    fault(
        "image-is-built-for-its-task",
        "CUDA without a GPU",
        drop("service/TaskDefinition/ContainerDefinitions/0/ResourceRequirements"),
        Gpu="yes",
        InstanceType="g5.xlarge",
    ),
    fault(
        "image-is-built-for-its-task",
        "another architecture than the deployment's",
        put("service/TaskDefinition/RuntimePlatform/CpuArchitecture", "ARM64"),
    ),
    fault(
        "architecture-matches",
        "x86 on ARM by default",
        drop("service/TaskDefinition/RuntimePlatform"),
        InstanceType="c7g.large",
        Architecture="ARM64",
        AmiParameter="/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended/image_id",
    ),
    fault(
        "architecture-matches",
        "Windows",
        put("service/TaskDefinition/RuntimePlatform/OperatingSystemFamily", "WINDOWS_SERVER_2022_CORE"),
    ),
    fault("architecture-matches", "Fargate alone", put("service/TaskDefinition/RequiresCompatibilities", ["FARGATE"])),
    fault("execution-role-is-there", "missing", drop("service/TaskDefinition/ExecutionRoleArn")),
    fault("execution-role-is-there", "its name", put("service/TaskDefinition/ExecutionRoleArn", "seefood-execution")),
    fault(
        "execution-role-is-there",
        "trusts instances",
        put("identity/ExecutionRole/AssumeRolePolicyDocument", trust("ec2.amazonaws.com")),
    ),
    fault(
        "execution-role-is-there",
        "trusts services, not tasks",
        put("identity/ExecutionRole/AssumeRolePolicyDocument", trust("ecs.amazonaws.com")),
    ),
    fault(
        "execution-role-is-there",
        "trust of another account",
        put("identity/ExecutionRole/AssumeRolePolicyDocument/Statement/0/Condition/StringEquals/aws:SourceAccount", "999999999999"),
    ),
    fault("execution-role-is-there", "denied", put("identity/ExecutionRole/AssumeRolePolicyDocument/Statement/0/Effect", "Deny")),
    fault("execution-role-may-start-task", "no policies", put("identity/ExecutionRole/Policies", [])),
    fault("execution-role-may-start-task", "may not log in", not_allowed("identity", "ExecutionRole", "ecr:GetAuthorizationToken")),
    fault(
        "execution-role-may-start-task",
        "may not fetch layers",
        not_allowed("identity", "ExecutionRole", "ecr:GetDownloadUrlForLayer"),
    ),
    fault("execution-role-may-start-task", "may not log", not_allowed("identity", "ExecutionRole", "logs:PutLogEvents")),
    fault(
        "execution-role-may-start-task",
        "another log group",
        replaced("identity/ExecutionRole/Policies", "/seefood/${Name}", "/ecs/${Name}"),
    ),
    fault(
        "execution-role-may-start-task",
        "the log group without its streams",
        replaced("identity/ExecutionRole/Policies", "/seefood/${Name}:*", "/seefood/${Name}"),
    ),
    fault(
        "execution-role-may-start-task",
        "denied elsewhere",
        append("identity/ExecutionRole/Policies", allow("ecr:*", effect="Deny")),
    ),
    fault(
        "execution-role-may-start-task",
        "the task's role instead",
        put("service/TaskDefinition/ExecutionRoleArn", ref("TaskRoleArn")),
    ),
    fault("log-group-exists", "another name", put(f"{LOGS}/Options/awslogs-group", "/ecs/seefood")),
    fault(
        "log-group-exists",
        "its name changed",
        put("observability/LogGroup/LogGroupName", "/seefood/logs"),
        output("observability", "LogGroupName", sub("/seefood/${Name}")),
    ),
    fault("log-group-exists", "group missing", drop(f"{LOGS}/Options/awslogs-group")),
    fault("log-group-exists", "another region", put(f"{LOGS}/Options/awslogs-region", "us-east-1")),
    fault("log-group-exists", "no logs", drop(LOGS)),
    fault("log-group-exists", "json-file", put(f"{LOGS}/LogDriver", "json-file")),
    fault("log-group-exists", "option misspelt", put(f"{LOGS}/Options/awslogs-steam-prefix", "task")),
    fault(
        "log-group-exists",
        "group of the same stack, not waited for",
        made("service", "Logs", "Logs::LogGroup", LogGroupName="/own", RetentionInDays=7),
        put(f"{LOGS}/Options/awslogs-group", "/own"),
    ),
    fault("memory-is-enough", "for one version alone", put("service/TaskDefinition/Memory", "1500")),
    fault("memory-is-enough", "container's own limit", put(f"{CONTAINER}/Memory", 1024)),
    fault("memory-is-enough", "none at all", drop("service/TaskDefinition/Memory")),
    fault("memory-is-enough", "more reserved than allowed", put(f"{CONTAINER}/MemoryReservation", "4000")),
    fault("memory-is-enough", "container above its task", put(f"{CONTAINER}/Memory", "3500")),
]

CONTAINERS = [
    fault("release-is-in-our-bucket", "missing", drop(f"{CONTAINER}/Environment/0")),
    fault(
        "release-is-in-our-bucket", "another bucket", put(f"{CONTAINER}/Environment/0/Value", "s3://seefood-models/release.json")
    ),
    fault("release-is-in-our-bucket", "no document", put(f"{CONTAINER}/Environment/0/Value", sub("s3://${BucketName}/"))),
    fault("release-is-in-our-bucket", "a path", put(f"{CONTAINER}/Environment/0/Value", "/models/release.json")),
    fault("release-is-in-our-bucket", "another region", put(f"{CONTAINER}/Environment/1/Value", "us-east-1")),
    fault("task-role-may-serve", "no role", drop("service/TaskDefinition/TaskRoleArn")),
    fault("task-role-may-serve", "the execution role", put("service/TaskDefinition/TaskRoleArn", ref("ExecutionRoleArn"))),
    fault("task-role-may-serve", "may not read", not_allowed("identity", "TaskRole", "s3:GetObject")),
    fault("task-role-may-serve", "may not list", not_allowed("identity", "TaskRole", "s3:ListBucket")),
    fault(
        "task-role-may-serve",
        "may not list statuses",
        put("identity/TaskRole/Policies/0/PolicyDocument/Statement/1/Condition", {"StringLike": {"s3:prefix": "dvc/*"}}),
    ),
    fault("task-role-may-serve", "may not write its status", not_allowed("identity", "TaskRole", "s3:PutObject")),
    fault(
        "task-role-may-serve",
        "objects without the bucket",
        replaced("identity/TaskRole/Policies", "${BucketArn}/*.mar", "${BucketArn}/models/*.mar"),
    ),
    fault("task-role-may-serve", "trusts instances", put("identity/TaskRole/AssumeRolePolicyDocument", trust("ec2.amazonaws.com"))),
    fault(
        "task-role-may-serve",
        "a boundary",
        put("identity/TaskRole/PermissionsBoundary", "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"),
    ),
    fault(
        "task-role-may-serve",
        "a key that it may not use",
        put(
            "storage/ModelBucket/BucketEncryption/ServerSideEncryptionConfiguration/0/ServerSideEncryptionByDefault",
            {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "arn:aws:kms:eu-central-1:111122223333:key/1"},
        ),
    ),
    fault("settings-are-taken", "unknown", append(f"{CONTAINER}/Environment", {"Name": "SEEFOOD_GRACE", "Value": "15"})),
    fault("settings-are-taken", "no number", put(f"{CONTAINER}/Environment/3/Value", "15s")),
    fault(
        "settings-are-taken",
        "twice",
        append(f"{CONTAINER}/Environment", {"Name": "SEEFOOD_RELEASE", "Value": "s3://other/release.json"}),
    ),
    fault(
        "settings-are-taken",
        "in the environment and a secret",
        secret("/key"),
        append(f"{CONTAINER}/Environment", {"Name": "KEY", "Value": "1"}),
    ),
    fault("settings-are-taken", "words for the log", put(f"{CONTAINER}/Environment/2/Value", "false")),
    fault("secrets-can-be-read", "role may not", secret(f"{SECRET}:field::")),
    fault("secrets-can-be-read", "field without the rest", READ_SECRET, secret(f"{SECRET}:field")),
    fault("secrets-can-be-read", "no value", READ_SECRET, secret("")),
    fault("secrets-can-be-read", "a parameter that it may not read", secret("/seefood/key")),
    fault("secrets-can-be-read", "a field that the secret lacks", *OWN_SECRET, secret(sub("${Key}:password::"))),
    fault("secrets-can-be-read", "no name", READ_SECRET, put(f"{CONTAINER}/Secrets", [{"ValueFrom": SECRET}])),
    fault("container-has-few-rights", "root can be written", drop(f"{CONTAINER}/ReadonlyRootFilesystem")),
    fault("container-has-few-rights", "as root", put(f"{CONTAINER}/User", "0:0")),
    fault("container-has-few-rights", "as whom the image says", drop(f"{CONTAINER}/User")),
    fault("container-has-few-rights", "a name that the image may lack", put(f"{CONTAINER}/User", "seefood")),
    fault("container-has-few-rights", "privileged", put(f"{CONTAINER}/Privileged", "true")),
    fault("container-has-few-rights", "capabilities kept", drop(f"{CONTAINER}/LinuxParameters/Capabilities")),
    fault("container-has-few-rights", "capability added", put(f"{CONTAINER}/LinuxParameters/Capabilities/Add", ["SYS_ADMIN"])),
    fault("container-has-few-rights", "the host's processes", put("service/TaskDefinition/PidMode", "host")),
    fault("tmp-can-be-written", "nothing", put(f"{CONTAINER}/LinuxParameters/Tmpfs", [])),
    fault("tmp-can-be-written", "elsewhere", put(f"{CONTAINER}/LinuxParameters/Tmpfs/0/ContainerPath", "/var/tmp")),
    fault("tmp-can-be-written", "read-only", put(f"{CONTAINER}/LinuxParameters/Tmpfs/0/MountOptions", ["ro"])),
    fault("tmp-can-be-written", "larger than the memory", TmpMiB="4096"),
    fault("served-container-is-essential", "not", put(f"{CONTAINER}/Essential", False)),
    fault("served-container-is-essential", "not, as text", put(f"{CONTAINER}/Essential", "false")),
    fault(
        "container-dependencies-can-be-met",
        "another container",
        put(f"{CONTAINER}/DependsOn", [{"ContainerName": "proxy", "Condition": "START"}]),
    ),
    fault(
        "container-dependencies-can-be-met",
        "another volume",
        put(f"{CONTAINER}/MountPoints", [{"SourceVolume": "models", "ContainerPath": "/models"}]),
    ),
    fault(
        "container-health-check-allows-for-start",
        "by curl",
        put(f"{CHECK}/Command", ["CMD-SHELL", "curl -f http://127.0.0.1:8080/readyz"]),
    ),
    fault("internal-ports-are-not-mapped", "management", append(f"{CONTAINER}/PortMappings", {"ContainerPort": 8081})),
    fault("internal-ports-are-not-mapped", "figures, as text", append(f"{CONTAINER}/PortMappings", {"ContainerPort": "8082"})),
    fault("internal-ports-are-not-mapped", "a range", put(f"{CONTAINER}/PortMappings", [{"ContainerPortRange": "8080-8086"}])),
    fault("container-health-check-allows-for-start", "/ping", replaced(f"{CHECK}/Command", "8080/livez", "8080/ping")),
    fault("container-health-check-allows-for-start", "another port", replaced(f"{CHECK}/Command", "8080", "8086")),
    fault(
        "container-health-check-allows-for-start",
        "gives up during the start",
        put(f"{CHECK}/StartPeriod", 0),
        put(f"{CHECK}/Interval", 5),
        put(f"{CHECK}/Retries", "1"),
    ),
    fault("container-health-check-allows-for-start", "out of range", put(f"{CHECK}/StartPeriod", 600)),
    fault("container-health-check-allows-for-start", "no CMD", put(f"{CHECK}/Command", ["curl http://127.0.0.1:8080/livez"])),
    fault("stop-timeout-covers-drain", "default", drop(f"{CONTAINER}/StopTimeout")),
    fault("stop-timeout-covers-drain", "just as long", StopTimeout="65"),
    fault("stop-timeout-covers-drain", "a longer drain", DrainSeconds="120"),
    fault("stop-timeout-covers-drain", "drain by its default", drop(f"{CONTAINER}/Environment/4")),
]

FAULTS = [*STACKS, *INSTANCES, *ROOM, *TASKS, *CONTAINERS]
