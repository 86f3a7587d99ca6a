"""Faults of services, scaling, alarms, load balancer, network, roles and storage, each with the rule that must report it."""

import json

from tests.ecs.template_faults import (
    CONTAINER,
    DEPLOYMENT,
    GITHUB,
    NETWORK,
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
)

POLICY = "TargetTrackingScalingPolicyConfiguration"
STEPS = "StepScalingPolicyConfiguration"
FAILED = "service/ErrorAlarm/Metrics/2/MetricStat/Metric"
BOARD = "observability/Dashboard/DashboardBody"
RULE = "observability/DeploymentFailed"
EVENTS = "observability/AlarmTopicPolicy/PolicyDocument/Statement/0"
BALANCER = "service/LoadBalancer/LoadBalancerAttributes"
HTTPS, HTTP = "service/HttpsListener", "service/RedirectListener"
REDIRECT = f"{HTTP}/DefaultActions/0/RedirectConfig"
TO_LOAD_BALANCER = "network/LoadBalancerSecurityGroup/SecurityGroupIngress"
TO_TASKS = "network/TaskSecurityGroup/SecurityGroupIngress"
OIDC = "identity/DeployRole/AssumeRolePolicyDocument/Statement/0"
LIFECYCLE = "storage/ModelBucket/LifecycleConfiguration/Rules"
LAYERS = "arn:aws:s3:::prod-eu-central-1-starport-layer-bucket/*"
ANYBODY = {"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "CidrIp": "0.0.0.0/0"}


def opened(group, first, last, protocol="tcp", **source):
    """An inbound rule as a resource of its own."""
    source = source or {"CidrIp": "10.0.0.0/8"}
    return made(
        "network",
        "Opened",
        "EC2::SecurityGroupIngress",
        GroupId=ref(group),
        IpProtocol=protocol,
        FromPort=first,
        ToPort=last,
        **source,
    )


def subject(value, operator="StringEquals"):
    return put(
        f"{OIDC}/Condition",
        {
            "StringEquals": {f"{GITHUB}:aud": "sts.amazonaws.com"},
            operator: {f"{GITHUB}:aud": "sts.amazonaws.com", f"{GITHUB}:sub": value},
        },
    )


def environment(name, value):
    return append(f"{CONTAINER}/Environment", {"Name": name, "Value": value})


def lifecycle(count_type, number):
    selection = {"tagStatus": "any", "countType": count_type, "countNumber": number}
    rules = [{"rulePriority": 1, "selection": selection, "action": {"type": "expire"}}]
    return put("storage/Repository/LifecyclePolicy/LifecyclePolicyText", json.dumps({"rules": rules}))


SERVICES = [
    fault("service-asks-capacity-provider", "LaunchType beside it", put(f"{SERVICE}/LaunchType", "EC2")),
    fault(
        "service-asks-capacity-provider",
        "LaunchType alone",
        put(f"{SERVICE}/LaunchType", "EC2"),
        drop(f"{SERVICE}/CapacityProviderStrategy"),
    ),
    fault("service-asks-capacity-provider", "none", put(f"{SERVICE}/CapacityProviderStrategy", [])),
    fault("service-asks-capacity-provider", "weight 0", put(f"{SERVICE}/CapacityProviderStrategy/0/Weight", "0")),
    fault("service-asks-capacity-provider", "as on Fargate", put(f"{SERVICE}/PlatformVersion", "LATEST")),
    fault("service-asks-capacity-provider", "a daemon", put(f"{SERVICE}/SchedulingStrategy", "DAEMON")),
    fault("service-is-in-our-cluster", "default", drop(f"{SERVICE}/Cluster")),
    fault("service-is-in-our-cluster", "another", put(f"{SERVICE}/Cluster", "production")),
    fault("service-is-in-our-cluster", "association of another", put("cluster/ClusterCapacityProviders/Cluster", "production")),
    fault("grace-period-covers-start", "0", put(f"{SERVICE}/HealthCheckGracePeriodSeconds", "0")),
    fault("grace-period-covers-start", "default", drop(f"{SERVICE}/HealthCheckGracePeriodSeconds")),
    fault("grace-period-covers-start", "shorter than a start", put(f"{SERVICE}/HealthCheckGracePeriodSeconds", 30)),
    fault(
        "grace-period-covers-start",
        "not as long as start and checks",
        put(f"{TARGETS}/HealthCheckIntervalSeconds", 30),
        put(f"{TARGETS}/HealthyThresholdCount", "10"),
    ),
    fault("circuit-breaker-rolls-back", "none", drop(f"{DEPLOYMENT}/DeploymentCircuitBreaker")),
    fault("circuit-breaker-rolls-back", "no rollback", put(f"{DEPLOYMENT}/DeploymentCircuitBreaker/Rollback", False)),
    fault("circuit-breaker-rolls-back", "off, as text", put(f"{DEPLOYMENT}/DeploymentCircuitBreaker/Enable", "false")),
    fault("circuit-breaker-rolls-back", "CodeDeploy", put(f"{SERVICE}/DeploymentController", {"Type": "CODE_DEPLOY"})),
    fault("deployment-alarms-exist", "none", drop(f"{DEPLOYMENT}/Alarms")),
    fault("deployment-alarms-exist", "empty", put(f"{DEPLOYMENT}/Alarms/AlarmNames", [])),
    fault("deployment-alarms-exist", "a name that no alarm has", put(f"{DEPLOYMENT}/Alarms/AlarmNames", [sub("${Name}-5xx")])),
    fault("deployment-alarms-exist", "its ARN", put(f"{DEPLOYMENT}/Alarms/AlarmNames/0", att("ErrorAlarm", "Arn"))),
    fault(
        "deployment-alarms-exist", "by its name, not waited for", put(f"{DEPLOYMENT}/Alarms/AlarmNames", [sub("${Name}-errors")])
    ),
    fault("deployment-alarms-exist", "no rollback", put(f"{DEPLOYMENT}/Alarms/Rollback", False)),
    fault("deployment-alarms-exist", "goes off without traffic", put("service/ErrorAlarm/TreatMissingData", "breaching")),
    fault("deployment-alarms-exist", "goes off during the start", put("service/UnhealthyAlarm/EvaluationPeriods", 1)),
    fault("deployment-can-progress", "100 to 100", put(f"{DEPLOYMENT}/MaximumPercent", "100")),
    fault("deployment-can-progress", "half a task more", put(f"{DEPLOYMENT}/MaximumPercent", 150)),
    fault("deployment-can-progress", "nothing kept", put(f"{DEPLOYMENT}/MinimumHealthyPercent", 0)),
    fault("deployment-can-progress", "more than all", put(f"{DEPLOYMENT}/MinimumHealthyPercent", "200")),
    fault("service-waits-for-listener", "DependsOn missing", drop(f"{SERVICE}/DependsOn")),
    fault("service-waits-for-listener", "the other listener", put(f"{SERVICE}/DependsOn", "RedirectListener")),
    fault(
        "service-waits-for-listener",
        "no listener forwards",
        put(f"{HTTPS}/DefaultActions", [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}]),
    ),
    fault(
        "service-waits-for-listener",
        "a rule forwards, and is not waited for",
        put(f"{HTTPS}/DefaultActions", [{"Type": "fixed-response"}]),
        made(
            "service",
            "Rule",
            "ElasticLoadBalancingV2::ListenerRule",
            ListenerArn=ref("HttpsListener"),
            Actions=[{"Type": "forward", "TargetGroupArn": ref("TargetGroup")}],
        ),
    ),
    fault(
        "service-waits-for-capacity-provider",
        "association in the same stack",
        moved("cluster", "ClusterCapacityProviders", "service"),
        put("service/ClusterCapacityProviders/Cluster", ref("ClusterName")),
        put("service/ClusterCapacityProviders/CapacityProviders", [ref("CapacityProvider")]),
        put("service/ClusterCapacityProviders/DefaultCapacityProviderStrategy", []),
    ),
    fault(
        "service-waits-for-capacity-provider",
        "another association in the same stack",
        made(
            "service",
            "Providers",
            "ECS::ClusterCapacityProviderAssociations",
            Cluster=ref("ClusterName"),
            CapacityProviders=[ref("CapacityProvider")],
            DefaultCapacityProviderStrategy=[],
        ),
    ),
    fault("load-balancer-names-container", "another name", put(f"{SERVICE}/LoadBalancers/0/ContainerName", "web")),
    fault("load-balancer-names-container", "container renamed", put(f"{CONTAINER}/Name", "server")),
    fault("load-balancer-names-container", "a port that is not mapped", put(f"{SERVICE}/LoadBalancers/0/ContainerPort", "80")),
    fault("load-balancer-names-container", "port mapped no more", drop(f"{CONTAINER}/PortMappings/0")),
    fault("load-balancer-names-container", "another port", put(f"{SERVICE}/LoadBalancers/0/ContainerPort", 8086)),
    fault("load-balancer-names-container", "target group of another port", put(f"{TARGETS}/Port", 80)),
    fault("load-balancer-names-container", "none", put(f"{SERVICE}/LoadBalancers", [])),
    fault(
        "load-balancer-names-container",
        "load balancer for target group",
        put(f"{SERVICE}/LoadBalancers/0/TargetGroupArn", ref("LoadBalancer")),
    ),
    fault("load-balancer-names-container", "UDP", put(f"{CONTAINER}/PortMappings/0/Protocol", "udp")),
    fault("commands-can-run", "on", put(f"{SERVICE}/EnableExecuteCommand", True)),
    fault("commands-can-run", "on, as text", put(f"{SERVICE}/EnableExecuteCommand", "true")),
]

SCALING = [
    fault("desired-count-is-within-limits", "0", put(f"{SERVICE}/DesiredCount", 0)),
    fault("desired-count-is-within-limits", "above", DesiredCount="3"),
    fault("desired-count-is-within-limits", "below", MinTasks="2"),
    fault("scaling-is-of-this-service", "least above most", MinTasks="3", DesiredCount="3"),
    fault(
        "scaling-is-of-this-service",
        "another service",
        put("service/ScalingTarget/ResourceId", sub("service/${ClusterName}/other")),
    ),
    fault("scaling-is-of-this-service", "its ARN", put("service/ScalingTarget/ResourceId", ref("Service"))),
    fault(
        "scaling-is-of-this-service",
        "not waited for",
        put("service/ScalingTarget/ResourceId", sub("service/${ClusterName}/${Name}")),
    ),
    fault(
        "scaling-is-of-this-service",
        "another dimension",
        put("service/ScalingTarget/ScalableDimension", "ec2:spot-fleet-request:TargetCapacity"),
    ),
    fault("scaling-is-of-this-service", "to nothing", put("service/ScalingTarget/MinCapacity", "0")),
    fault(
        "scaling-is-of-this-service",
        "suspended",
        put("service/ScalingTarget/SuspendedState", {"DynamicScalingOutSuspended": "true"}),
    ),
    fault("scaling-is-of-this-service", "removed", gone("service", "ScalingTarget")),
    fault("scaling-policies-measure-this-service", "removed", gone("service", "ScaleByCpu")),
    fault(
        "scaling-policies-measure-this-service",
        "label the wrong way round",
        put(
            f"service/ScaleByRequests/{POLICY}/PredefinedMetricSpecification/ResourceLabel",
            sub("${TargetGroup.TargetGroupFullName}/${LoadBalancer.LoadBalancerFullName}"),
        ),
    ),
    fault(
        "scaling-policies-measure-this-service",
        "label missing",
        drop(f"service/ScaleByRequests/{POLICY}/PredefinedMetricSpecification/ResourceLabel"),
    ),
    fault("scaling-policies-measure-this-service", "no target value", put(f"service/ScaleByRequests/{POLICY}/TargetValue", 0)),
    fault("scaling-policies-measure-this-service", "CPU never so high", put(f"service/ScaleByCpu/{POLICY}/TargetValue", "120")),
    fault("scaling-policies-measure-this-service", "of nothing", put("service/ScaleByCpu/ScalingTargetId", "x")),
    fault(
        "scaling-policies-measure-this-service",
        "a task less",
        put(f"service/ScaleByShed/{STEPS}/StepAdjustments/0/ScalingAdjustment", -1),
    ),
    fault("scaling-policies-measure-this-service", "no step", put(f"service/ScaleByShed/{STEPS}/StepAdjustments", [])),
    fault(
        "scaling-policies-measure-this-service", "no alarm starts it", put("service/ShedAlarm/AlarmActions", [ref("AlarmTopicArn")])
    ),
    fault("alarms-watch-these-resources", "another service", put("observability/CpuAlarm/Dimensions/1/Value", "other")),
    fault("alarms-watch-these-resources", "no dimensions", drop("observability/MemoryAlarm/Dimensions")),
    fault(
        "alarms-watch-these-resources",
        "the ARN for the full name",
        put("service/UnhealthyAlarm/Dimensions/0/Value", ref("LoadBalancer")),
    ),
    fault("alarms-watch-these-resources", "a metric that nobody writes", put("observability/LagAlarm/MetricName", "Lag")),
    fault("alarms-watch-these-resources", "another namespace", put("observability/DriftAlarm/Namespace", "SeeFood/other")),
    fault("alarms-watch-these-resources", "tasks that log none", put(f"{CONTAINER}/Environment/8/Name", "OTHER")),
    fault("dashboards-show-what-is-measured", "a metric that nobody writes", replaced(BOARD, '"Restarts"', '"Repairs"')),
    fault("dashboards-show-what-is-measured", "another namespace", replaced(BOARD, "SeeFood/${Name}", "SeeFood")),
    fault("dashboards-show-what-is-measured", "a search for nothing", replaced(BOARD, "UnHealthyHostCount", "SickHostCount")),
    fault(
        "zones-do-not-share-a-nat-gateway",
        "both subnets use the first",
        put("network/PrivateSubnetBRouteTable/RouteTableId", ref("PrivateRouteTable")),
        NatGateways="each-zone",
    ),
    fault(
        "zones-do-not-share-a-nat-gateway",
        "both gateways are in one zone",
        put("network/NatGatewayB/SubnetId", ref("PublicSubnetA")),
        NatGateways="each-zone",
    ),
    fault("alarms-can-go-off", "a period of 45 s", put("observability/CpuAlarm/Period", 45)),
    fault("alarms-can-go-off", "no threshold", drop("service/UnhealthyAlarm/Threshold")),
    fault("alarms-can-go-off", "more points than periods", put("service/ErrorAlarm/DatapointsToAlarm", "5")),
    fault("alarms-can-go-off", "a metric that is missing", drop("service/ErrorAlarm/Metrics/3")),
    fault(
        "alarms-watch-these-resources",
        "the load balancer's by group",
        append(
            "service/ErrorAlarm/Metrics/3/MetricStat/Metric/Dimensions",
            {"Name": "TargetGroup", "Value": att("TargetGroup", "TargetGroupFullName")},
        ),
    ),
    fault("deployment-alarms-see-crashes", "tasks alone", replaced("service/ErrorAlarm/Metrics", "FILL(crashed, 0) + ", "")),
    fault(
        "deployment-alarms-see-crashes",
        "not those that hang",
        put("service/ErrorAlarm/Metrics/4/MetricStat/Metric/MetricName", "HTTPCode_ELB_503_Count"),
    ),
    fault(
        "deployment-alarms-see-crashes",
        "clients' faults",
        put("service/ErrorAlarm/Metrics/3/MetricStat/Metric/MetricName", "HTTPCode_ELB_4XX_Count"),
    ),
    fault(
        "deployment-alarms-see-crashes",
        "no task yet",
        put("service/UnhealthyAlarm/MetricName", "HTTPCode_ELB_503_Count"),
        put("service/UnhealthyAlarm/Dimensions", [{"Name": "LoadBalancer", "Value": att("LoadBalancer", "LoadBalancerFullName")}]),
    ),
    fault(
        "deployment-alarms-see-crashes",
        "uploads of slow clients",
        put(
            "service/SlowAlarm/Metrics/1/MetricStat/Metric",
            {
                "Namespace": "AWS/ApplicationELB",
                "MetricName": "TargetResponseTime",
                "Dimensions": [{"Name": "LoadBalancer", "Value": att("LoadBalancer", "LoadBalancerFullName")}],
            },
        ),
    ),
    fault("deployment-alarms-see-crashes", "not what fails in tasks", put(f"{FAILED}/MetricName", "Answered")),
    fault(
        "deployment-alarms-see-crashes",
        "all 5xx, those of a full queue among them",
        put(
            FAILED,
            {
                "Namespace": "AWS/ApplicationELB",
                "MetricName": "HTTPCode_Target_5XX_Count",
                "Dimensions": [{"Name": "LoadBalancer", "Value": att("LoadBalancer", "LoadBalancerFullName")}],
            },
        ),
    ),
    fault(
        "deployment-alarms-see-crashes",
        "a full queue",
        append(f"{DEPLOYMENT}/Alarms/AlarmNames", ref("ShedAlarm")),
    ),
    fault("full-queues-add-a-task", "nobody watches", gone("service", "ShedAlarm")),
    fault("full-queues-add-a-task", "people alone are told", put("service/ShedAlarm/AlarmActions", [ref("AlarmTopicArn")])),
    fault("full-queues-add-a-task", "measured, and of no use", replaced("service/ShedAlarm/Metrics", "FILL(shed, 0)", "0")),
    fault(
        "deployment-alarms-see-crashes",
        "no latency",
        put(f"{DEPLOYMENT}/Alarms/AlarmNames", [ref("ErrorAlarm"), ref("UnhealthyAlarm")]),
    ),
    fault("deployment-alarms-see-crashes", "mean latency", put("service/SlowAlarm/Metrics/1/MetricStat/Stat", "Average")),
    fault("alarms-notify-someone", "nobody", put("observability/CpuAlarm/AlarmActions", [])),
    fault("alarms-notify-someone", "a policy alone", put("service/ShedAlarm/AlarmActions", [ref("ScaleByShed")])),
    fault("alarms-notify-someone", "not a topic", put("service/ErrorAlarm/AlarmActions", [ref("LogGroupName")])),
    fault("alarms-notify-someone", "switched off", put("service/ErrorAlarm/ActionsEnabled", False)),
    fault(
        "alarms-notify-someone",
        "subscription of another topic",
        put("observability/AlarmSubscription/TopicArn", "arn:aws:sns:eu-central-1:111122223333:other"),
    ),
    fault(
        "failed-deployments-notify-someone", "no rule", put(f"{EVENTS}/Condition", {}), gone("observability", "DeploymentFailed")
    ),
    fault("failed-deployments-notify-someone", "another service", put(f"{RULE}/EventPattern/resources", [sub("${Name}")])),
    fault("failed-deployments-notify-someone", "all services", drop(f"{RULE}/EventPattern/resources")),
    fault("failed-deployments-notify-someone", "another kind", put(f"{RULE}/EventPattern/detail-type", ["ECS Task State Change"])),
    fault("failed-deployments-notify-someone", "what goes well", replaced(RULE + "/EventPattern", "_FAILED", "_COMPLETED")),
    fault("failed-deployments-notify-someone", "switched off", put(f"{RULE}/State", "DISABLED")),
    fault("failed-deployments-notify-someone", "nobody", put(f"{RULE}/Targets", [])),
    fault("failed-deployments-notify-someone", "a role, not a topic", put(f"{RULE}/Targets/0/Arn", ref("LogGroup"))),
    fault("failed-deployments-notify-someone", "may not publish", drop(EVENTS)),
    fault(
        "failed-deployments-notify-someone",
        "another rule may publish",
        replaced(f"{EVENTS}/Condition", "DeploymentFailed", "LogGroup"),
    ),
    fault("failed-deployments-notify-someone", "any rule may publish", drop(f"{EVENTS}/Condition")),
    fault(
        "failed-deployments-notify-someone",
        "alarms may not publish",
        drop("observability/AlarmTopicPolicy/PolicyDocument/Statement/1"),
    ),
    fault("failed-deployments-notify-someone", "of another topic", put("observability/AlarmTopicPolicy/Topics", ["other"])),
    fault(
        "captured-photos-expire",
        "never",
        put("storage/ModelBucket/LifecycleConfiguration/Rules/1/Status", "Disabled"),
        CaptureShare="1",
    ),
    fault(
        "captured-photos-expire",
        "another prefix",
        put("storage/ModelBucket/LifecycleConfiguration/Rules/1/Prefix", "kept/"),
        CaptureShare="1",
    ),
    fault(
        "captured-photos-expire",
        "the versions stay",
        drop("storage/ModelBucket/LifecycleConfiguration/Rules/1/NoncurrentVersionExpiration"),
        CaptureShare="1",
    ),
    fault(
        "captured-photos-expire",
        "no days",
        drop("storage/ModelBucket/LifecycleConfiguration/Rules/1/ExpirationInDays"),
        CaptureShare="1",
    ),
    fault(
        "captured-photos-expire",
        "another bucket",
        replaced(f"{CONTAINER}/Environment/10", "captured/", "photos/"),
        CaptureShare="0.1",
    ),
    fault("captured-photos-expire", "tasks may not write", not_allowed("identity", "TaskRole", "s3:PutObject"), CaptureShare="0.1"),
    fault(
        "captured-photos-expire",
        "tasks may not read for how long photos are kept",
        not_allowed("identity", "TaskRole", "s3:GetLifecycleConfiguration"),
        CaptureShare="0.1",
    ),
]

LOAD_BALANCER = [
    fault("health-check-asks-readiness", "default", drop(f"{TARGETS}/HealthCheckPath")),
    fault("health-check-asks-readiness", "/ping", put(f"{TARGETS}/HealthCheckPath", "/ping")),
    fault("health-check-asks-readiness", "alive, not ready", put(f"{TARGETS}/HealthCheckPath", "/livez")),
    fault("health-check-asks-readiness", "with a slash", put(f"{TARGETS}/HealthCheckPath", "/readyz/")),
    fault("health-check-asks-readiness", "HTTPS", put(f"{TARGETS}/HealthCheckProtocol", "HTTPS")),
    fault("health-check-asks-readiness", "404 is well", put(f"{TARGETS}/Matcher/HttpCode", "200-499")),
    fault("health-check-asks-readiness", "another code", put(f"{TARGETS}/Matcher/HttpCode", 204)),
    fault("health-check-asks-readiness", "off", put(f"{TARGETS}/HealthCheckEnabled", False)),
    fault("health-check-has-right-port", "one of its own, as text", put(f"{TARGETS}/HealthCheckPort", "8086")),
    fault("health-check-has-right-port", "another", put(f"{TARGETS}/HealthCheckPort", 9000)),
    fault(
        "health-check-has-right-port",
        "fixed with bridge",
        put(f"{TARGETS}/HealthCheckPort", "8080"),
        put("service/TaskDefinition/NetworkMode", "bridge"),
        put(f"{TARGETS}/TargetType", "instance"),
        drop(f"{SERVICE}/NetworkConfiguration"),
    ),
    fault("health-check-times-are-possible", "as long as the interval", put(f"{TARGETS}/HealthCheckTimeoutSeconds", "5")),
    fault("health-check-times-are-possible", "default with a short interval", drop(f"{TARGETS}/HealthCheckTimeoutSeconds")),
    fault(
        "health-check-times-are-possible",
        "too often",
        put(f"{TARGETS}/HealthCheckIntervalSeconds", 3),
        put(f"{TARGETS}/HealthCheckTimeoutSeconds", 2),
    ),
    fault("health-check-times-are-possible", "once is enough", put(f"{TARGETS}/UnhealthyThresholdCount", 1)),
    fault("load-balancer-stops-sending-in-time", "a slow check", put(f"{TARGETS}/HealthCheckIntervalSeconds", 30)),
    fault("load-balancer-stops-sending-in-time", "often asked", put(f"{TARGETS}/UnhealthyThresholdCount", "10")),
    fault("load-balancer-stops-sending-in-time", "no grace", GraceSeconds="0"),
    fault("deregistration-fits-stop", "default", put(f"{TARGETS}/TargetGroupAttributes", [])),
    fault("deregistration-fits-stop", "none", put(f"{TARGETS}/TargetGroupAttributes/0/Value", "0")),
    fault("deregistration-fits-stop", "longer than a task lives", DeregistrationDelay="600"),
    fault("target-group-speaks-http", "HTTPS", put(f"{TARGETS}/Protocol", "HTTPS"), put(f"{TARGETS}/HealthCheckProtocol", "HTTP")),
    fault("target-group-speaks-http", "HTTP/2", put(f"{TARGETS}/ProtocolVersion", "HTTP2")),
    fault("target-group-speaks-http", "no port", drop(f"{TARGETS}/Port")),
    fault("https-has-certificate", "none", drop(f"{HTTPS}/Certificates")),
    fault("https-has-certificate", "empty", put(f"{HTTPS}/Certificates/0/CertificateArn", "")),
    fault(
        "https-has-certificate",
        "another region",
        CertificateArn="arn:aws:acm:us-east-1:111122223333:certificate/00000000-0000-0000-0000-000000000000",
    ),
    fault("https-has-certificate", "HTTP on 443", put(f"{HTTPS}/Protocol", "HTTP")),
    fault("https-has-certificate", "old TLS by default", drop(f"{HTTPS}/SslPolicy")),
    fault("https-has-certificate", "another load balancer", put(f"{HTTPS}/LoadBalancerArn", ref("TargetGroup"))),
    fault(
        "http-is-redirected", "forwards", put(f"{HTTP}/DefaultActions", [{"Type": "forward", "TargetGroupArn": ref("TargetGroup")}])
    ),
    fault("http-is-redirected", "another port", put(f"{REDIRECT}/Port", 8443)),
    fault("http-is-redirected", "to itself", drop(f"{REDIRECT}/Port")),
    fault("http-is-redirected", "to HTTP", put(f"{REDIRECT}/Protocol", "HTTP")),
    fault("http-is-redirected", "removed", gone("service", "RedirectListener")),
    fault("callers-reach-load-balancer", "443 not let in", drop(f"{TO_LOAD_BALANCER}/0")),
    fault("callers-reach-load-balancer", "listener on another port", put(f"{HTTPS}/Port", "8443")),
    fault("callers-reach-load-balancer", "no groups", put("service/LoadBalancer/SecurityGroups", [])),
    fault("callers-reach-load-balancer", "UDP", put(f"{TO_LOAD_BALANCER}/0/IpProtocol", "udp")),
    fault("callers-reach-load-balancer", "from nobody", drop(f"{TO_LOAD_BALANCER}/0/CidrIp")),
    fault(
        "callers-reach-load-balancer", "the tasks' group", put("service/LoadBalancer/SecurityGroups", [ref("TaskSecurityGroup")])
    ),
    fault("load-balancer-reaches-tasks", "photos not let in", drop(f"{TO_TASKS}/0")),
    fault(
        "load-balancer-reaches-tasks",
        "from another group",
        put(f"{TO_TASKS}/0/SourceSecurityGroupId", ref("InstanceSecurityGroup")),
    ),
    fault("load-balancer-reaches-tasks", "not let out", gone("network", "LoadBalancerToInference")),
    fault(
        "load-balancer-reaches-tasks",
        "let out elsewhere",
        put("network/LoadBalancerToInference/DestinationSecurityGroupId", ref("InstanceSecurityGroup")),
    ),
    fault(
        "load-balancer-reaches-tasks",
        "tasks in the load balancer's group",
        put(f"{NETWORK}/SecurityGroups", [ref("LoadBalancerSecurityGroup")]),
    ),
    fault("load-balancer-reaches-tasks", "another port", put(f"{TO_TASKS}/0/FromPort", 80), put(f"{TO_TASKS}/0/ToPort", "80")),
    fault("internal-ports-are-closed", "management from within", opened("TaskSecurityGroup", 8081, 8081)),
    fault("internal-ports-are-closed", "a range", put(f"{TO_TASKS}/0/ToPort", 8086)),
    fault("internal-ports-are-closed", "everything to instances", opened("InstanceSecurityGroup", -1, -1, protocol="-1")),
    fault(
        "internal-ports-are-closed",
        "from the load balancer",
        opened("TaskSecurityGroup", "8082", "8082", SourceSecurityGroupId=ref("LoadBalancerSecurityGroup")),
    ),
    fault(
        "internal-ports-are-closed",
        "a listener for it",
        made(
            "service",
            "Management",
            "ElasticLoadBalancingV2::Listener",
            LoadBalancerArn=ref("LoadBalancer"),
            Port="8081",
            Protocol="HTTPS",
        ),
    ),
    fault("ambiguous-requests-are-refused", "by default", drop("service/LoadBalancer/LoadBalancerAttributes")),
    fault("ambiguous-requests-are-refused", "defensive", put(f"{BALANCER}/1/Value", "defensive")),
    fault("ambiguous-requests-are-refused", "malformed headers pass", put(f"{BALANCER}/0/Value", "false")),
    fault(
        "ambiguous-requests-are-refused",
        "the last of two counts",
        append(BALANCER, {"Key": "routing.http.desync_mitigation_mode", "Value": "monitor"}),
    ),
    fault("tasks-outwait-the-load-balancer", "as long", put(f"{BALANCER}/2/Value", "75")),
    fault("tasks-outwait-the-load-balancer", "much longer", put(f"{BALANCER}/2/Value", 4000)),
    fault("tasks-outwait-the-load-balancer", "a hasty task", environment("SEEFOOD_IDLE_CONNECTION_S", "5")),
    fault(
        "tasks-outwait-the-load-balancer",
        "a hasty task, by default",
        drop(f"{BALANCER}/2"),
        environment("SEEFOOD_IDLE_CONNECTION_S", "60"),
    ),
    fault("load-balancer-is-no-single-client", "the default", drop(f"{CONTAINER}/Environment/6")),
    fault("load-balancer-is-no-single-client", "some", put(f"{CONTAINER}/Environment/6/Value", "2000")),
    fault("load-balancer-is-no-single-client", "one rate for all", environment("SEEFOOD_RATE_PER_ADDRESS", "5")),
    fault("tasks-speak-plain-http", "a certificate of its own", environment("SEEFOOD_TLS", "true")),
    fault("tasks-speak-plain-http", "a certificate", environment("SEEFOOD_CERT", "/run/cert.pem")),
    fault("tasks-are-closed-to-others", "anybody", append(TO_TASKS, ANYBODY)),
    fault("tasks-are-closed-to-others", "anybody to instances", opened("InstanceSecurityGroup", 22, 22, CidrIp="0.0.0.0/0")),
    fault("tasks-are-closed-to-others", "more ports", put(f"{TO_TASKS}/0/FromPort", 0)),
    fault(
        "tasks-are-closed-to-others",
        "each other",
        opened("TaskSecurityGroup", 8080, 8080, SourceSecurityGroupId=ref("TaskSecurityGroup")),
    ),
]

NETWORKS = [
    fault("instances-reach-aws", "no route", gone("network", "PrivateRoute")),
    fault("instances-reach-aws", "no NAT gateway", gone("network", "NatGateway"), gone("network", "PrivateRoute")),
    fault(
        "instances-reach-aws",
        "internet gateway instead",
        drop("network/PrivateRoute/NatGatewayId"),
        put("network/PrivateRoute/GatewayId", ref("InternetGateway")),
    ),
    fault("instances-reach-aws", "part of the world", put("network/PrivateRoute/DestinationCidrBlock", "10.0.0.0/8")),
    fault("instances-reach-aws", "NAT gateway in a private subnet", put("network/NatGateway/SubnetId", ref("PrivateSubnetA"))),
    fault("instances-reach-aws", "NAT gateway without address", drop("network/NatGateway/AllocationId")),
    fault("instances-reach-aws", "subnet without its table", gone("network", "PrivateSubnetBRouteTable")),
    fault("instances-reach-aws", "route in the other table", put("network/PrivateRoute/RouteTableId", ref("PublicRouteTable"))),
    fault(
        "instances-reach-aws",
        "public subnets",
        output("network", "PrivateSubnets", {"Fn::Join": [",", [ref("PublicSubnetA"), ref("PublicSubnetB")]]}),
    ),
    fault(
        "load-balancer-is-reachable", "one subnet", put("service/LoadBalancer/Subnets", [{"Fn::Select": [0, ref("PublicSubnets")]}])
    ),
    fault("load-balancer-is-reachable", "private subnets", put("service/LoadBalancer/Subnets", ref("PrivateSubnets"))),
    fault(
        "load-balancer-is-reachable",
        "no internet gateway's route",
        gone("network", "PublicRoute"),
        put("network/NatGateway/DependsOn", []),
    ),
    fault(
        "load-balancer-is-reachable",
        "one zone",
        put("network/PublicSubnetB/AvailabilityZone", att("PublicSubnetA", "AvailabilityZone")),
    ),
    fault("load-balancer-is-reachable", "tasks in another zone", put("network/PrivateSubnetB/AvailabilityZone", "eu-central-1c")),
    fault("load-balancer-is-reachable", "a zone left to chance", drop("network/PublicSubnetA/AvailabilityZone")),
    fault("load-balancer-is-reachable", "network load balancer", put("service/LoadBalancer/Type", "network")),
    fault(
        "gateway-is-attached-first",
        "attachment removed",
        gone("network", "InternetGatewayAttachment"),
        put("network/PublicRoute/DependsOn", []),
        put("network/NatAddress/DependsOn", []),
    ),
    fault("gateway-is-attached-first", "route does not wait", drop("network/PublicRoute/DependsOn")),
    fault("gateway-is-attached-first", "address does not wait", drop("network/NatAddress/DependsOn")),
    fault(
        "zones-and-addresses-are-apart",
        "overlap",
        put("network/PrivateSubnetA/CidrBlock", {"Fn::Select": [0, {"Fn::Cidr": [ref("VpcCidr"), 4, 6]}]}),
    ),
    fault("zones-and-addresses-are-apart", "outside", put("network/PrivateSubnetA/CidrBlock", "10.99.0.0/24")),
    fault("zones-and-addresses-are-apart", "zone of another region", Zones="us-east-1a,us-east-1b"),
    fault("names-are-resolved", "no DNS", put("network/Vpc/EnableDnsSupport", False)),
    fault(
        "names-are-resolved",
        "no names with endpoints",
        put("network/Vpc/EnableDnsHostnames", "false"),
        made(
            "network",
            "Api",
            "EC2::VPCEndpoint",
            VpcEndpointType="Interface",
            VpcId=ref("Vpc"),
            ServiceName=sub("com.amazonaws.${AWS::Region}.ecr.api"),
            PrivateDnsEnabled=True,
        ),
    ),
    fault("everything-is-in-one-network", "target group elsewhere", put(f"{TARGETS}/VpcId", "vpc-1")),
    fault("everything-is-in-one-network", "group in the default network", drop("network/TaskSecurityGroup/VpcId")),
    fault("everything-is-in-one-network", "subnet elsewhere", put("network/PrivateSubnetA/VpcId", "vpc-1")),
    fault("groups-are-those-of-the-network", "another group for tasks", put(f"{NETWORK}/SecurityGroups", ["sg-1"])),
    fault("groups-are-those-of-the-network", "another subnet", put("cluster/AutoScalingGroup/VPCZoneIdentifier", ["subnet-1"])),
    fault(
        "groups-are-those-of-the-network",
        "default group for instances",
        drop("cluster/LaunchTemplate/LaunchTemplateData/SecurityGroupIds"),
    ),
    fault(
        "instances-may-call-out",
        "another port",
        put("network/InstanceSecurityGroup/SecurityGroupEgress/0/FromPort", 80),
        put("network/InstanceSecurityGroup/SecurityGroupEgress/0/ToPort", 80),
    ),
    fault(
        "instances-may-call-out",
        "to the network alone",
        put("network/TaskSecurityGroup/SecurityGroupEgress/0/CidrIp", ref("VpcCidr")),
    ),
    fault("endpoints-are-used", "another region", put("network/S3Endpoint/ServiceName", "com.amazonaws.us-east-1.s3")),
    fault("endpoints-are-used", "no table", put("network/S3Endpoint/RouteTableIds", [])),
    fault(
        "endpoint-allows-image-layers",
        "the bucket alone",
        put("network/S3Endpoint/PolicyDocument", allow("s3:GetObject", "arn:aws:s3:::models/*")["PolicyDocument"]),
    ),
    fault(
        "endpoint-allows-image-layers",
        "images alone",
        put("network/S3Endpoint/PolicyDocument", allow("s3:*", LAYERS)["PolicyDocument"]),
    ),
]

ROLES = [
    fault(
        "roles-trust-their-service",
        "stack role of tasks",
        put("identity/ServiceStackRole/AssumeRolePolicyDocument", trust("ecs-tasks.amazonaws.com")),
    ),
    fault(
        "roles-trust-their-service",
        "instance role of ECS",
        put("identity/InstanceRole/AssumeRolePolicyDocument", trust("ecs.amazonaws.com")),
    ),
    fault(
        "roles-trust-their-service",
        "another action",
        put("identity/TaskRole/AssumeRolePolicyDocument", trust("ecs-tasks.amazonaws.com", action="sts:TagSession")),
    ),
    fault(
        "roles-trust-their-service",
        "another region's tasks",
        replaced("identity/TaskRole/AssumeRolePolicyDocument", "${AWS::Region}", "us-east-1"),
    ),
    fault(
        "roles-trust-their-service",
        "everybody",
        append(
            "identity/TaskRole/AssumeRolePolicyDocument/Statement",
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"},
        ),
    ),
    fault("github-trust-names-repository", "no condition", drop(f"{OIDC}/Condition")),
    fault("github-trust-names-repository", "no subject", drop(f"{OIDC}/Condition/StringEquals/{GITHUB}:sub")),
    fault("github-trust-names-repository", "all repositories", subject("repo:*", "StringLike")),
    fault("github-trust-names-repository", "all of the organisation", subject("repo:ORG/*", "StringLike")),
    fault("github-trust-names-repository", "all whose names begin so", subject("repo:ORG/REPO*", "StringLike")),
    fault(
        "github-trust-names-repository", "if there is one", subject("repo:ORG/REPO:environment:production", "StringEqualsIfExists")
    ),
    fault("github-trust-names-repository", "all but one", subject("repo:ORG/REPO:environment:production", "StringNotEquals")),
    fault(
        "github-trust-names-repository",
        "if all are, and none is",
        subject("repo:ORG/REPO:environment:production", "ForAllValues:StringLike"),
    ),
    fault(
        "github-trust-names-repository",
        "another repository beside",
        put(f"{OIDC}/Condition/StringEquals/{GITHUB}:sub", [ref("GitHubSubject"), "repo:OTHER/REPO:environment:production"]),
    ),
    fault("github-trust-names-repository", "any audience", drop(f"{OIDC}/Condition/StringEquals/{GITHUB}:aud")),
    fault("github-trust-names-repository", "another provider", put("identity/OidcProvider/Url", "https://gitlab.com")),
    fault(
        "github-trust-names-repository",
        "a second trust without any",
        append(
            "identity/DeployRole/AssumeRolePolicyDocument/Statement",
            {"Effect": "Allow", "Principal": {"Federated": ref("OidcProvider")}, "Action": "sts:AssumeRoleWithWebIdentity"},
        ),
    ),
    fault("roles-are-narrow", "everything", append("identity/TaskRole/Policies", allow("*"))),
    fault("roles-are-narrow", "all of S3", append("identity/TaskRole/Policies", allow(["s3:*"]))),
    fault(
        "roles-are-narrow",
        "administrator",
        put("identity/DeployRole/ManagedPolicyArns", ["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ),
    fault("roles-are-narrow", "passes every role", append("identity/DeployRole/Policies", allow("iam:PassRole"))),
    fault("stack-role-may-make-service", "may not create", not_allowed("identity", "ServiceStackRole", "ecs:CreateService")),
    fault("stack-role-may-make-service", "may not pass roles", not_allowed("identity", "ServiceStackRole", "iam:PassRole")),
    fault(
        "stack-role-may-make-service",
        "service of another cluster",
        replaced("identity/ServiceStackRole/Policies", "service/${Name}/", "service/default/"),
    ),
    fault(
        "stack-role-may-make-service",
        "output is another role",
        output("identity", "ServiceStackRoleArn", att("InstanceRole", "Arn")),
    ),
    fault(
        "stack-role-may-make-service",
        "roles for Lambda",
        replaced("identity/ServiceStackRole/Policies", "ecs-tasks.amazonaws.com", "lambda.amazonaws.com"),
    ),
    fault("deploy-role-may-deploy", "may not push", not_allowed("identity", "DeployRole", "ecr:PutImage")),
    fault(
        "deploy-role-may-deploy",
        "may not change the stack",
        not_allowed("identity", "DeployRole", "cloudformation:ExecuteChangeSet"),
    ),
    fault("deploy-role-may-deploy", "may not pass the stack role", not_allowed("identity", "DeployRole", "iam:PassRole")),
    fault(
        "deploy-role-may-deploy",
        "another stack",
        replaced("identity/DeployRole/Policies", "stack/${Name}-service/*", "stack/${Name}/*"),
    ),
    fault("deploy-role-may-deploy", "output missing", output("identity", "DeployRoleArn", None)),
]

STORAGE = [
    fault("bucket-keeps-versions", "none", drop("storage/ModelBucket/VersioningConfiguration")),
    fault("bucket-keeps-versions", "suspended", put("storage/ModelBucket/VersioningConfiguration/Status", "Suspended")),
    fault("bucket-is-private", "no block", drop("storage/ModelBucket/PublicAccessBlockConfiguration")),
    fault(
        "bucket-is-private",
        "one way open",
        put("storage/ModelBucket/PublicAccessBlockConfiguration/RestrictPublicBuckets", "false"),
    ),
    fault(
        "bucket-is-private",
        "a policy for everybody",
        append(
            "storage/ModelBucketPolicy/PolicyDocument/Statement",
            {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"},
        ),
    ),
    fault("bucket-is-private", "without TLS", gone("storage", "ModelBucketPolicy")),
    fault(
        "bucket-policy-allows-tasks",
        "denied for everybody",
        drop("storage/ModelBucketPolicy/PolicyDocument/Statement/0/Condition"),
    ),
    fault(
        "bucket-policy-allows-tasks",
        "denied with TLS",
        replaced("storage/ModelBucketPolicy/PolicyDocument/Statement/0/Condition", "false", "true"),
    ),
    fault(
        "bucket-keeps-models", "everything expires", put(LIFECYCLE, [{"Id": "all", "Status": "Enabled", "ExpirationInDays": 30}])
    ),
    fault("bucket-keeps-models", "history expires", put(f"{LIFECYCLE}/0/Prefix", "release")),
    fault(
        "bucket-keeps-models",
        "models move to the archive",
        append(LIFECYCLE, {"Status": "Enabled", "Transitions": [{"StorageClass": "GLACIER", "TransitionInDays": 30}]}),
    ),
    fault("old-statuses-expire", "no lifecycle", drop("storage/ModelBucket/LifecycleConfiguration")),
    fault("old-statuses-expire", "switched off", put(f"{LIFECYCLE}/0/Status", "Disabled")),
    fault("image-tags-are-immutable", "default", drop("storage/Repository/ImageTagMutability")),
    fault("image-tags-are-immutable", "mutable", put("storage/Repository/ImageTagMutability", "MUTABLE")),
    fault("registry-keeps-images", "one image", lifecycle("imageCountMoreThan", 1)),
    fault("registry-keeps-images", "by age", lifecycle("sinceImagePushed", 14)),
    fault("storage-outlives-its-stack", "bucket deleted", drop("storage/ModelBucket/DeletionPolicy")),
    fault("storage-outlives-its-stack", "images deleted", put("storage/Repository/DeletionPolicy", "Delete")),
    fault("storage-outlives-its-stack", "replaced", drop("storage/Repository/UpdateReplacePolicy")),
    fault("logs-are-kept-for-a-time", "for ever", drop("observability/LogGroup/RetentionInDays")),
    fault("logs-are-kept-for-a-time", "no number", put("observability/LogGroup/RetentionInDays", "")),
]

FAULTS = [*SERVICES, *SCALING, *LOAD_BALANCER, *NETWORKS, *ROLES, *STORAGE]
