"""The six templates: how they fit together, what they create, and that moto's CloudFormation creates them in order.

moto proves little about AWS, as it ignores much and refuses little. The rules of `make preflight` cover why services fail.
"""

import base64
import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from scripts.ecs.preflight.resolve.templates import Resource, Stacks, resolve
from scripts.ecs.stacks import DEPLOYMENTS, ORDER, TEMPLATE_FOLDER, Deployment, DeploymentError, read_templates
from scripts.serving.cloudwatch import METRICS
from scripts.settings import Settings, ports_of
from tests.conftest import ROOT
from tests.ecs.scripted_aws import moto_server

TEMPLATES = read_templates()
TEXTS = {kind: (TEMPLATE_FOLDER / f"{kind}.yaml").read_text(encoding="utf-8") for kind in ORDER}
EXAMPLE = DEPLOYMENTS / "seefood.yaml"
SUBJECT = "repo:org@1/repo@2:environment:production"
IMAGE = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/seefood:1.0.0"


def deployment(**parameters: str) -> Deployment:
    found = Deployment.load("seefood")
    return found._replace(parameters={"Image": IMAGE, **found.parameters, **parameters})


@functools.cache
def stacks(**parameters: str) -> Stacks:
    found = resolve(deployment(**parameters), TEMPLATES)
    assert found.problems == []
    return found


def resource(found: Stacks, name: str) -> Resource:
    (one,) = [one for one in found.resources if one.name == name]
    return one


def parameters() -> list[tuple[str, str, dict[str, Any]]]:
    return [(kind, name, about) for kind in ORDER for name, about in TEMPLATES[kind]["Parameters"].items()]


def outputs_before(kind: str) -> set[str]:
    return {name for earlier in ORDER[: ORDER.index(kind)] for name in TEMPLATES[earlier]["Outputs"]}


def fits(declared: dict[str, Any], value: object) -> bool:
    """Whether CloudFormation would accept this value for a parameter."""
    if declared["Type"] == "Number":
        return declared.get("MinValue", 0) <= float(str(value)) <= declared.get("MaxValue", float("inf"))
    allowed = "AllowedValues" not in declared or value in declared["AllowedValues"]
    return allowed and ("AllowedPattern" not in declared or re.fullmatch(declared["AllowedPattern"], str(value)) is not None)


# --- as they are written ---


@pytest.mark.parametrize("kind", ORDER)
def test_template_opens_with_its_purpose(kind):
    first, second = TEXTS[kind].splitlines()[:2]
    assert re.fullmatch(r"# [A-Z].*[.:].*", first)
    assert second == "#"
    assert TEMPLATES[kind]["Description"].startswith("SeeFood's ")


@pytest.mark.parametrize(("kind", "name", "declared"), parameters())
def test_parameter_is_described_and_its_values_are_limited(kind, name, declared):
    assert len(declared["Description"]) > 10
    limits = {"AllowedPattern", "AllowedValues", "MinValue"} & set(declared)
    assert limits or declared["Type"].startswith(("AWS::", "List<AWS::")) or name in outputs_before(kind)
    assert "Default" not in declared or fits(declared, declared["Default"])


def test_parameters_with_one_name_are_declared_alike():
    by_name = {}
    for kind, name, about in parameters():
        known = {key: value for key, value in about.items() if key != "Description"}
        assert by_name.setdefault(name, known) == known, f"{kind}: {name}"


def test_each_output_comes_from_one_stack_and_is_described():
    names = [name for kind in ORDER for name in TEMPLATES[kind]["Outputs"]]
    assert sorted(names) == sorted(set(names))
    assert all(output["Description"] for kind in ORDER for output in TEMPLATES[kind]["Outputs"].values())


def test_each_parameter_gets_a_value_and_only_three_have_no_default():
    given = deployment()
    for kind in ORDER:
        values = given.values(TEMPLATES[kind], dict.fromkeys(outputs_before(kind), "x"))
        assert set(values) == set(TEMPLATES[kind]["Parameters"])
    without = {name for kind, name, about in parameters() if "Default" not in about and name not in outputs_before(kind)}
    assert without == {"Name", "Image", "CertificateArn"}


def test_values_that_the_example_deployment_suggests_are_valid():
    proposed = dict(re.findall(r"^  (?:# )?([A-Z]\w+): (.+)$", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"Image", "Gpu", "GitHubSubject", "ExistingVpcId", "AllowedCidr", "CertificateArn"} <= set(proposed)
    about = {name: known for _, name, known in parameters()}
    for name, value in proposed.items():
        assert fits(about[name], value.strip('"')), name
    stacks(**{name: value.strip('"') for name, value in proposed.items()})


def test_defaults_are_those_of_the_cost_estimate():
    about = {name: known for _, name, known in parameters()}
    expected = {
        "InstanceType": "c7i.large",
        "MinInstances": 1,
        "DiskGiB": 30,
        "DesiredCount": 1,
        "MinTasks": 1,
        "Gpu": "no",
        "LogRetentionDays": 30,
        "KeepImages": 50,
        "ContainerInsights": "enabled",
        "ExistingVpcId": "",
    }
    assert {name: about[name]["Default"] for name in expected} == expected


# --- a deployment's file ---


def written(folder: Path, text: str) -> Deployment:
    (folder / "flowers.yaml").write_text(text, encoding="utf-8")
    return Deployment.load("flowers", folder)


def test_deployment_may_name_its_model(tmp_path):
    assert written(tmp_path, "region: eu-west-1\nmodel: flowers\nparameters: {}").model == "flowers"
    assert written(tmp_path, "region: eu-west-1\nparameters: {MaxTasks: 4}") == Deployment(
        "flowers", "eu-west-1", {"MaxTasks": "4"}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("region: eu-west-1", "must have the keys region and parameters, and may have model"),
        ("{region: eu-west-1, parameters: {}, models: [a]}", "must have the keys region and parameters, and may have model"),
        ("{region: eu-west-1, parameters: []}", r"parameters is \[\], expected a mapping"),
        ("{region: eu-west-1, parameters: {}, model: 3}", "model is 3, expected the name of a model"),
        ("{region: eu-west-1, parameters: {MaxTask: 4}}", "no template has a parameter 'MaxTask', expected one of"),
        ("{region: eu-west-1, parameters: {MaxTasks: yes}}", "MaxTasks is True, expected text or a number"),
        ("{region: ", "is not valid YAML"),
    ],
)
def test_invalid_deployment_names_the_file_the_value_and_what_was_expected(tmp_path, text, message):
    with pytest.raises(DeploymentError, match=message) as caught:
        written(tmp_path, text)
    assert "flowers.yaml" in str(caught.value)


def test_stacks_of_any_model_have_its_deployments_name_and_no_other():
    found = resolve(deployment()._replace(name="flowers", model="flowers"), TEMPLATES)
    assert found.problems == []
    assert found.outputs["ClusterName"] == found.outputs["ServiceName"] == "flowers"
    # the product's own: the container, the log group and the image of the example
    product = {"seefood.example.com", "/seefood/flowers", "seefood:1.0.0"}
    text = json.dumps([(one.type, one.properties) for one in found.resources])
    left = text.replace('"ContainerName": "seefood"', "").replace('"Name": "seefood"', "")
    for one in product:
        left = left.replace(one, "")
    assert "seefood" not in left


# --- what they create ---


def test_existing_network_is_used_and_needs_its_subnets():
    given = {"ExistingVpcId": "vpc-1", "ExistingPublicSubnets": "subnet-1,subnet-2", "ExistingPrivateSubnets": "subnet-3,subnet-4"}
    found = stacks(**given)
    kinds = {one.type.removeprefix("AWS::EC2::") for one in found.resources if one.stack == "network"}
    assert kinds == {"SecurityGroup", "SecurityGroupEgress"}
    assert (found.outputs["VpcId"], found.outputs["PublicSubnets"]) == ("vpc-1", "subnet-1,subnet-2")
    broken = resolve(deployment(ExistingVpcId="vpc-1"), TEMPLATES).problems
    assert len(broken) >= 2
    assert all("ExistingVpcId needs" in text for _, text in broken[:2])


def test_public_and_private_subnets_are_in_two_zones_each():
    found = stacks(Zones="eu-central-1b,eu-central-1c")
    for side in ("Public", "Private"):
        assert resource(found, f"{side}SubnetA").get("AvailabilityZone") == "eu-central-1b"
        assert resource(found, f"{side}SubnetB").get("AvailabilityZone") == "eu-central-1c"
    assert len({one.get("CidrBlock") for one in found.of("EC2::Subnet")}) == 4


def test_security_groups_open_only_the_port_of_photos_and_readiness():
    found, port = stacks(), ports_of(8080)["inference"]
    balancer, task = (resource(found, name) for name in ("LoadBalancerSecurityGroup", "TaskSecurityGroup"))
    opened = {(rule["FromPort"], rule["ToPort"], rule["SourceSecurityGroupId"]) for rule in task.list("SecurityGroupIngress")}
    assert opened == {(port, port, balancer.identifiers["id"])}
    sent = {(one.get("FromPort"), one.get("DestinationSecurityGroupId")) for one in found.of("EC2::SecurityGroupEgress")}
    assert sent == {(port, task.identifiers["id"])}
    # a group without outbound rules of its own may send anywhere
    assert [rule["CidrIp"] for rule in balancer.list("SecurityGroupEgress")] == ["127.0.0.1/32"]
    assert resource(found, "InstanceSecurityGroup").list("SecurityGroupIngress") == []


def test_load_balancer_refuses_what_servers_may_read_in_two_ways():
    attributes = {one["Key"]: one["Value"] for one in resource(stacks(), "LoadBalancer").list("LoadBalancerAttributes")}
    assert attributes["routing.http.desync_mitigation_mode"] == "strictest"
    assert attributes["routing.http.drop_invalid_header_fields.enabled"] == "true"


def test_container_gets_valid_settings_and_enough_time_to_stop():
    found = stacks()
    container = resource(found, "TaskDefinition").get("ContainerDefinitions", 0)
    settings = Settings.from_environment({one["Name"]: str(one["Value"]) for one in container["Environment"]})
    assert settings.log_json
    assert settings.grace_s + settings.drain_s + settings.stop_timeout_s < float(container["StopTimeout"])
    group = resource(found, "TargetGroup")
    unhealthy_after_s = float(group.get("HealthCheckIntervalSeconds")) * float(group.get("UnhealthyThresholdCount"))
    assert unhealthy_after_s <= settings.grace_s


def test_gpu_is_switched_on_by_a_parameter():
    plain, gpu = stacks(), stacks(Gpu="yes", InstanceType="g4dn.xlarge")
    requirement = [{"Type": "GPU", "Value": "1"}]
    for found, expected, image in ((plain, None, "2023/recommended"), (gpu, requirement, "2023/gpu/recommended")):
        assert resource(found, "TaskDefinition").get("ContainerDefinitions", 0).get("ResourceRequirements") == expected
        assert image in resource(found, "LaunchTemplate").get("LaunchTemplateData", "ImageId")
    assert resource(stacks(AmiParameter="/ours"), "LaunchTemplate").get("LaunchTemplateData", "ImageId") == "resolve:ssm:/ours"


def test_only_models_and_images_outlive_their_stack():
    kept = [one for one in stacks().resources if one.attributes.get("DeletionPolicy") == "Retain"]
    assert {one.name for one in kept} == {"ModelBucket", "ModelBucketPolicy", "Repository"}
    for one in kept:
        assert one.attributes["UpdateReplacePolicy"] == "Retain"
        # a fixed name would still be taken when the stack is created again
        assert not {"BucketName", "RepositoryName"} & set(one.properties)


def test_alarms_notify_the_topic_and_three_of_them_undo_a_deployment():
    found = stacks()
    topic = resource(found, "AlarmTopic").identifiers["arn"]
    also = {"ShedAlarm": [resource(found, "ScaleByShed").identifiers["arn"]]}
    assert all(one.list("AlarmActions") == [*also.get(one.name, []), topic] for one in found.of("CloudWatch::Alarm"))
    undo = resource(found, "Service").get("DeploymentConfiguration", "Alarms", "AlarmNames")
    assert undo == ["seefood-errors", "seefood-slow", "seefood-unhealthy"]
    # or the first deployment would be undone while its tasks may still be starting
    waits_s = resource(found, "UnhealthyAlarm").get("EvaluationPeriods") * 60
    assert waits_s > TEMPLATES["service"]["Parameters"]["HealthCheckGracePeriod"]["MaxValue"]


def test_steps_that_the_dashboard_looks_for_are_logged():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "scripts").rglob("*.py"))
    looked_for = re.findall(r"'([^']+)'", TEXTS["observability"].split("filter step in [")[1].split("]")[0])
    assert len(looked_for) > 10
    for step in looked_for:
        assert re.search(rf'steps\([^)]*"{re.escape(step)}"', code), step


def test_dashboard_is_json_and_shows_each_metric_that_tasks_log_beside_the_load_balancers():
    body = json.loads(resource(stacks(), "Dashboard").get("DashboardBody"))
    widgets = [widget["properties"] for widget in body["widgets"]]
    places = [(widget["x"], widget["y"]) for widget in body["widgets"]]
    assert len(set(places)) == len(places)
    assert len({one["title"] for one in widgets}) == len(widgets)
    shown = {metric[1] for one in widgets for metric in one.get("metrics", []) if metric[0] == "SeeFood/seefood"}
    assert shown == set(METRICS)
    assert 'MetricName="RequestCount" app/seefood\'' in widgets[0]["metrics"][0][0]["expression"]


def test_metrics_and_alarms_are_as_many_as_the_cost_estimate_has():
    alarms = stacks().of("CloudWatch::Alarm")
    watched = sum(max(1, len([one for one in alarm.list("Metrics") if "MetricStat" in one])) for alarm in alarms)
    page = (ROOT / "scripts" / "ecs" / "README.md").read_text(encoding="utf-8")
    # two alarms of each of the two policies of target tracking, and two of the capacity provider's scaling, which AWS makes
    assert f"{len(METRICS)} of our own, {watched + 6} alarm metrics" in page
    assert all(alarm.get("AlarmDescription") and alarm.get("TreatMissingData") for alarm in alarms)


def test_thresholds_are_those_of_the_prometheus_alerts():
    path = ROOT / "scripts" / "monitoring" / "prometheus" / "rules" / "alerts.yml"
    alerts = {
        rule["alert"]: rule for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
    }
    found = {
        name: float(resource(stacks(), name).get("Threshold")) for name in ("UnsureAlarm", "ErrorAlarm", "LagAlarm", "LatencyAlarm")
    }
    assert f"unsure:share2m > {found['UnsureAlarm']:g}" in alerts["SeefoodUnsure"]["expr"]
    assert f"failed:share2m > {found['ErrorAlarm']:g}" in alerts["SeefoodFailures"]["expr"]
    assert alerts["SeefoodReleaseLag"]["for"] == f"{found['LagAlarm']:g}s"
    assert f'le="{found["LatencyAlarm"]:.1f}"' in alerts["SeefoodSlow"]["expr"]
    drift = float(resource(stacks(), "DriftAlarm").get("Threshold"))
    assert f'seefood_drift{{window="500"}} > {drift:g}' in alerts["SeefoodDrift"]["expr"]
    assert float(resource(stacks(), "DiskAlarm").get("Threshold")) == Settings.min_free_bytes


def test_photos_are_captured_only_where_a_share_is_set_and_then_for_some_days():
    plain, kept = stacks(), stacks(CaptureShare="0.05", CaptureDays="7")
    names = [
        {one["Name"]: str(one["Value"]) for one in resource(found, "TaskDefinition").get("ContainerDefinitions", 0)["Environment"]}
        for found in (plain, kept)
    ]
    assert not any(name.startswith("SEEFOOD_CAPTURE") for name in names[0])
    bucket = kept.outputs["BucketName"]
    assert (names[1]["SEEFOOD_CAPTURE_SHARE"], names[1]["SEEFOOD_CAPTURE_DIR"]) == ("0.05", f"s3://{bucket}/captured/")
    (rule,) = [
        one for one in resource(kept, "ModelBucket").list("LifecycleConfiguration", "Rules") if one.get("Prefix") == "captured/"
    ]
    assert float(rule["ExpirationInDays"]) == 7


# --- moto ---

dropped = pytest.mark.filterwarnings("ignore:Tried to parse AWS:UserWarning")
# what moto's CloudFormation creates of each stack; it reports CREATE_COMPLETE for the rest, too
MADE = {
    "network": {
        "EC2::VPC",
        "EC2::Subnet",
        "EC2::InternetGateway",
        "EC2::VPCGatewayAttachment",
        "EC2::NatGateway",
        "EC2::EIP",
        "EC2::RouteTable",
        "EC2::Route",
        "EC2::SubnetRouteTableAssociation",
        "EC2::VPCEndpoint",
        "EC2::SecurityGroup",
    },
    "storage": {"S3::Bucket", "ECR::Repository"},
    "identity": {"IAM::Role", "IAM::InstanceProfile"},
    "cluster": {"ECS::Cluster", "EC2::LaunchTemplate", "AutoScaling::AutoScalingGroup"},
    "observability": {"Logs::LogGroup", "SNS::Topic", "CloudWatch::Dashboard"},
    "service": {
        "ECS::TaskDefinition",
        "ECS::Service",
        "ElasticLoadBalancingV2::LoadBalancer",
        "ElasticLoadBalancingV2::TargetGroup",
        "ElasticLoadBalancingV2::Listener",
    },
}


def for_moto(kind: str) -> str:
    """A template without what moto 5.2 does not support: !Cidr, and a registry without a name."""
    template = copy.deepcopy(TEMPLATES[kind])
    for one in template["Resources"].values():
        if one["Type"] == "AWS::EC2::Subnet":
            block = one["Properties"]["CidrBlock"]
            one["Properties"]["CidrBlock"] = f"10.20.{block['Fn::Select'][0]}.0/24"
        if one["Type"] == "AWS::ECR::Repository":
            one["Properties"]["RepositoryName"] = "seefood"
    return json.dumps(template)


@pytest.fixture(scope="module")
def created():
    """(types that were created, outputs) of each stack, all created in order against moto's server."""
    with moto_server():
        certificate = boto3.client("acm").request_certificate(DomainName="seefood.example.com")["CertificateArn"]
        given = deployment(CertificateArn=certificate, GitHubSubject=SUBJECT, AlarmEmail="somebody@example.com")
        cloudformation, outputs, types = boto3.client("cloudformation"), dict[str, str](), {}
        for kind in ORDER:
            values = given.values(TEMPLATES[kind], outputs)
            cloudformation.create_stack(
                StackName=given.stack(kind),
                TemplateBody=for_moto(kind),
                Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
                Capabilities=["CAPABILITY_IAM"],
            )
            (stack,) = cloudformation.describe_stacks(StackName=given.stack(kind))["Stacks"]
            assert stack["StackStatus"] == "CREATE_COMPLETE"
            outputs |= {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
            outputs.setdefault("CapacityProvider", "dropped-by-moto")
            found = cloudformation.describe_stack_resources(StackName=given.stack(kind))["StackResources"]
            types[kind] = {one["ResourceType"].removeprefix("AWS::") for one in found if one.get("PhysicalResourceId")}
        yield types, outputs


@dropped
def test_moto_creates_all_stacks_in_order(created):
    types, outputs = created
    for kind in ORDER:
        assert types[kind] >= MADE[kind]
        put_out = {name for name, output in TEMPLATES[kind]["Outputs"].items() if "Condition" not in output}
        assert put_out <= set(outputs)


@dropped
def test_resources_in_moto_have_the_values_of_the_templates(created):
    _, outputs = created
    (repository,) = boto3.client("ecr").describe_repositories()["repositories"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    (group,) = boto3.client("logs").describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/seefood/seefood", 30)
    (launched,) = boto3.client("ec2").describe_launch_template_versions(Versions=["$Latest"])["LaunchTemplateVersions"]
    user_data = base64.b64decode(launched["LaunchTemplateData"]["UserData"]).decode()
    assert "ECS_CLUSTER=seefood\n" in user_data
    balancing = boto3.client("elbv2")
    (target,) = balancing.describe_target_groups()["TargetGroups"]
    checked = {name: target[name] for name in ("TargetType", "Port", "HealthCheckPort", "HealthCheckPath")}
    assert checked == {"TargetType": "ip", "Port": 8080, "HealthCheckPort": "traffic-port", "HealthCheckPath": "/readyz"}
    listeners = balancing.describe_listeners(LoadBalancerArn=outputs["LoadBalancerArn"])["Listeners"]
    assert {one["Port"]: one["DefaultActions"][0]["Type"] for one in listeners} == {443: "forward", 80: "redirect"}
    ecs = boto3.client("ecs")
    (service,) = ecs.describe_services(cluster=outputs["ClusterName"], services=[outputs["ServiceName"]])["services"]
    task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
    assert task["containerDefinitions"][0]["image"] == IMAGE
    assert outputs["Url"] == "https://seefood.example.com"
