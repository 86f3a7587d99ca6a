"""make preflight's checks of the account, against moto's server, and botocore's Stubber for what moto lacks."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.stub import Stubber

from scripts.ecs import aws as aws_module
from scripts.ecs.aws import Aws
from scripts.ecs.calls import calls_of
from scripts.ecs.preflight import account as checks
from scripts.ecs.preflight.preflight import account_results
from scripts.ecs.preflight.resolve.templates import Stacks, resolve
from scripts.ecs.preflight.result import FAILED, OK, SKIPPED
from scripts.ecs.stacks import TEMPLATE_FOLDER, Deployment, read_templates
from tests.ecs.scripted_aws import ACCOUNT, REGION, Recorder, moto, outside

ECR = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
TEMPLATES = read_templates()


@pytest.fixture(scope="module")
def account() -> Iterator[Aws]:
    with moto() as aws:
        yield aws


@pytest.fixture(scope="module", autouse=True)
def recorder(account):
    found = Recorder()
    found.on = True
    return found


@pytest.fixture
def stub(account):
    """Answers of one service that moto lacks: `stub("ecr")` is its Stubber."""
    stubbers = []

    def stubbed(service):
        account._clients[service] = boto3.client(service, region_name=REGION)
        stubbers.append((service, Stubber(account._clients[service])))
        stubbers[-1][1].activate()
        return stubbers[-1][1]

    yield stubbed
    for service, stubber in stubbers:
        stubber.assert_no_pending_responses()
        account._clients.pop(service, None)


def stacks(**parameters: str) -> Stacks:
    return resolve(Deployment("seefood", REGION, parameters), TEMPLATES, ACCOUNT)


def only(found):
    """The single result of a check."""
    (result,) = found
    return result


def quota(stub, value, code="L-1216C47A"):
    asked = {"ServiceCode": "ec2", "QuotaCode": code}
    stub("service-quotas").add_response("get_service_quota", {"Quota": {"Value": value}}, asked)


def test_quota_must_cover_running_instances_and_all_of_ours(account, stub):
    image = outside("ec2").register_image(Name="any")["ImageId"]
    outside("ec2").run_instances(ImageId=image, InstanceType="c7i.2xlarge", MinCount=1, MaxCount=1)
    own = [{"ResourceType": "instance", "Tags": [{"Key": "aws:cloudformation:stack-name", "Value": "seefood-cluster"}]}]
    outside("ec2").run_instances(ImageId=image, InstanceType="c7i.large", MinCount=1, MaxCount=1, TagSpecifications=own)
    outside("ec2").run_instances(ImageId=image, InstanceType="g5.xlarge", MinCount=1, MaxCount=1)
    # 8 of another instance, and 2 for each of our 4
    quota(stub, 16.0)
    state, message = only(checks.vcpu_quota_is_enough(account, stacks()))
    assert (state, "others use 8" in message, "may need 8" in message) == (OK, True, True)
    quota(stub, 15.0)
    state, message = only(checks.vcpu_quota_is_enough(account, stacks()))
    assert state == FAILED
    assert "request an increase in Service Quotas" in message


def test_gpu_instances_have_a_quota_of_their_own_that_may_be_the_default(account, stub):
    stubber = stub("service-quotas")
    stubber.add_client_error("get_service_quota", "NoSuchResourceException")
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-DB2E81BA"}
    stubber.add_response("get_aws_default_service_quota", {"Quota": {"Value": 0.0}}, asked)
    state, message = only(checks.vcpu_quota_is_enough(account, stacks(Gpu="yes", InstanceType="g5.xlarge")))
    assert state == FAILED
    assert "L-DB2E81BA allows 0 vCPUs" in message


def test_instance_type_must_be_offered_in_the_zones_of_the_subnets(account):
    assert only(checks.instance_type_is_offered(account, stacks()))[0] == OK
    state, message = only(checks.instance_type_is_offered(account, stacks(InstanceType="c7i.largo")))
    assert (state, "no zone" in message) == (FAILED, True)


def test_image_must_be_in_the_registry_and_built_for_the_right_processor(account):
    check = checks.image_is_there
    assert only(check(account, stacks()))[0] == SKIPPED
    state, message = only(check(account, stacks(Image=f"{ECR}/nothing:1")))
    assert (state, "there is no registry nothing" in message) == (FAILED, True)
    outside("ecr").create_repository(repositoryName="food")
    image = f"{ECR}/food:1.0.0"
    state, message = only(check(account, stacks(Image=image)))
    assert (state, "is not in the registry" in message) == (FAILED, True)
    media_type = "application/vnd.oci.image.index.v1+json"
    platforms = [{"architecture": "amd64", "os": "linux"}, {"architecture": "unknown", "os": "unknown"}]
    manifests = [{"digest": f"sha256:{i}", "platform": platform} for i, platform in enumerate(platforms)]
    manifest = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
    put = {"repositoryName": "food", "imageManifest": json.dumps(manifest), "imageManifestMediaType": media_type}
    outside("ecr").put_image(**put, imageTag="1.0.0")
    assert only(check(account, stacks(Image=image))) == (OK, f"{image} is built for X86_64")
    state, message = only(check(account, stacks(Image=image, Architecture="ARM64")))
    assert (state, "expected ARM64" in message) == (FAILED, True)
    assert only(check(account, stacks(Image=image.replace(REGION, "us-east-1"))))[0] == FAILED


@pytest.fixture
def layers():
    """The URL of an image's configuration."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            labels = {"config": {"Labels": {"seefood.torch": "cu130"}}} if "cuda" in self.path else {}
            self.wfile.write(json.dumps({"architecture": "arm64", "os": "linux", **labels}).encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/config"
    server.shutdown()
    server.server_close()


def test_processor_of_a_single_image_is_read_from_its_configuration(account, stub, layers):
    stubber = stub("ecr")
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:c"}})
    stubber.add_response("batch_get_image", {"images": [{"imageManifest": manifest}]})
    stubber.add_response("get_download_url_for_layer", {"downloadUrl": layers})
    state, message = only(checks.image_is_there(account, stacks(Image=f"{ECR}/food:1.0.0")))
    assert (state, "for ARM64, expected X86_64" in message) == (FAILED, True)


@pytest.mark.parametrize(("gpu", "state"), [("yes", OK), ("no", FAILED)])
def test_image_must_have_cuda_exactly_where_tasks_have_a_gpu(account, stub, layers, gpu, state):
    stubber = stub("ecr")
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:c"}})
    stubber.add_response("batch_get_image", {"images": [{"imageManifest": manifest}]})
    stubber.add_response("get_download_url_for_layer", {"downloadUrl": f"{layers}?cuda"})
    graviton = {"Architecture": "ARM64", "InstanceType": "g5g.xlarge"}
    found, message = only(checks.image_is_there(account, stacks(Image=f"{ECR}/food:1.0.0", Gpu=gpu, **graviton)))
    assert found == state
    assert "built for ARM64 with TORCH=cu130" in message
    assert ("expected TORCH=cpu" in message) == (state == FAILED)


def certificate(**changes):
    arn = f"arn:aws:acm:{REGION}:{ACCOUNT}:certificate/0"
    later = datetime.now(UTC) + timedelta(days=30)
    names = ["seefood.example.com", "*.example.org"]
    about = {"CertificateArn": arn, "DomainName": names[0], "SubjectAlternativeNames": names, "Status": "ISSUED", "NotAfter": later}
    return {"Certificate": about | changes}


@pytest.mark.parametrize(
    ("answer", "domain", "state", "message"),
    [
        (certificate(), "seefood.example.com", OK, "is ISSUED for *.example.org, seefood.example.com"),
        (certificate(), "food.example.org", OK, "is ISSUED"),
        (certificate(), "a.food.example.org", FAILED, "but DomainName is a.food.example.org"),
        (certificate(Status="PENDING_VALIDATION"), "", FAILED, "PENDING_VALIDATION, expected ISSUED: create the DNS record"),
        (certificate(NotAfter=datetime(2026, 1, 1, tzinfo=UTC)), "", FAILED, "expired on 2026-01-01"),
    ],
)
def test_certificate_must_be_issued_and_cover_the_domain(account, stub, answer, domain, state, message):
    stub("acm").add_response("describe_certificate", answer)
    given = {"CertificateArn": answer["Certificate"]["CertificateArn"], "DomainName": domain}
    found = only(checks.certificate_is_issued(account, stacks(**given)))
    assert found[0] == state
    assert message in found[1]


def test_certificate_must_exist_in_this_region(account):
    arn = f"arn:aws:acm:{REGION}:{ACCOUNT}:certificate/00000000-0000-0000-0000-000000000000"
    state, message = only(checks.certificate_is_issued(account, stacks(CertificateArn=arn)))
    assert (state, "there is no certificate" in message) == (FAILED, True)
    state, message = only(checks.certificate_is_issued(account, stacks(CertificateArn=arn.replace(REGION, "us-east-1"))))
    assert (state, f"is not in {REGION}" in message) == (FAILED, True)
    state, message = only(checks.certificate_is_issued(account, stacks()))
    assert (state, "CertificateArn is not set" in message) == (FAILED, True)


def test_ami_parameter_must_exist(account):
    assert only(checks.ami_parameter_exists(account, stacks()))[0] == OK
    assert only(checks.ami_parameter_exists(account, stacks(Gpu="yes", InstanceType="g5.xlarge")))[0] == OK
    state, message = only(checks.ami_parameter_exists(account, stacks(AmiParameter="/aws/service/ecs/nothing")))
    assert (state, "there is no parameter /aws/service/ecs/nothing" in message) == (FAILED, True)


def test_ecs_role_must_exist(account):
    state, message = only(checks.ecs_role_exists(account, stacks()))
    assert (state, "aws iam create-service-linked-role" in message) == (FAILED, True)
    # moto gives service-linked roles names of its own
    outside("iam").create_role(RoleName="AWSServiceRoleForECS", AssumeRolePolicyDocument="{}")
    assert only(checks.ecs_role_exists(account, stacks()))[0] == OK


def with_bucket_name(name):
    bucket = TEMPLATES["storage"]["Resources"]["ModelBucket"]
    named = {**bucket, "Properties": {**bucket["Properties"], "BucketName": name}}
    storage = {**TEMPLATES["storage"], "Resources": {**TEMPLATES["storage"]["Resources"], "ModelBucket": named}}
    return resolve(Deployment("seefood", REGION, {}), {**TEMPLATES, "storage": storage}, ACCOUNT)


def test_bucket_name_must_be_free_or_ours(account, stub):
    check = checks.bucket_name_is_free
    assert only(check(account, stacks()))[0] == OK
    assert only(check(account, with_bucket_name("seefood-models"))) == (OK, "the name seefood-models is free")
    outside("s3").create_bucket(Bucket="seefood-models", CreateBucketConfiguration={"LocationConstraint": REGION})
    state, message = only(check(account, with_bucket_name("seefood-models")))
    assert (state, "outside this stack" in message) == (FAILED, True)
    stub("s3").add_client_error("head_bucket", "403", http_status_code=403)
    state, message = only(check(account, with_bucket_name("models")))
    assert (state, "belongs to another account" in message) == (FAILED, True)


def test_denied_call_skips_its_check_and_a_failed_call_fails_it(account, stub):
    stub("iam").add_client_error("get_role", "AccessDenied", http_status_code=403)
    stub("ssm").add_client_error("get_parameter", "InternalServerError", http_status_code=500)
    stubber = stub("service-quotas")
    stubber.add_client_error("get_service_quota", "AccessDeniedException", http_status_code=400)
    found = {result.check: result for result in checks.check_all(account, stacks())}
    assert list(found) == [check.__name__.replace("_", "-") for check in checks.CHECKS]
    assert found["ecs-role-exists"][1:] == (SKIPPED, "iam:GetRole is not allowed")
    assert found["vcpu-quota-is-enough"].state == SKIPPED
    assert found["ami-parameter-exists"].state == FAILED
    assert "InternalServerError" in found["ami-parameter-exists"].message


def test_command_checks_the_account_where_there_are_credentials(account, monkeypatch):
    monkeypatch.setattr(aws_module, "ATTEMPTS", 1)  # moto answers 500 to calls it lacks, which boto3 would retry
    results = account_results(Deployment("seefood", REGION, {}), TEMPLATE_FOLDER)
    assert [result.check for result in results] == [f"account {check.__name__.replace('_', '-')}" for check in checks.CHECKS]


def test_preflight_makes_the_listed_calls_and_no_others(recorder):
    if len(recorder.made) < 5:
        pytest.skip("the tests before this one make the calls")
    # made by a client of its own, before the checks
    assert recorder.made | {"sts:GetCallerIdentity"} == calls_of("preflight"), "correct scripts/ecs/calls.py"
