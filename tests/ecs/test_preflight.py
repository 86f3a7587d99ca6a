"""make preflight: its rules over the templates as they are, and with each fault of tests/ecs/faults_of_*.py put in."""

import copy
import shutil
import signal
import subprocess
import sys
from collections import Counter

import boto3
import pytest

from scripts.command import run
from scripts.ecs.preflight import linters
from scripts.ecs.preflight.judge import RULES, broken, name_of
from scripts.ecs.preflight.linters import checkov_results, run_cfn_lint, run_checkov
from scripts.ecs.preflight.preflight import VARIANTS, account_results, check_rules, main
from scripts.ecs.preflight.resolve.permissions import may
from scripts.ecs.preflight.resolve.templates import resolve
from scripts.ecs.preflight.result import FAILED, OK, SKIPPED
from scripts.ecs.stacks import ORDER, TEMPLATE_FOLDER, Deployment, read_templates
from scripts.paths import ROOT
from tests.ecs import faults_of_services, faults_of_tasks

REGION = "eu-central-1"
# optional parts on, so that there is a deploy role and a subscription to put faults into
PARAMETERS = VARIANTS["GitHub"] | {"GitHubSubject": "repo:ORG/REPO:environment:production"}
FAULTS = [*faults_of_tasks.FAULTS, *faults_of_services.FAULTS]


@pytest.fixture(scope="module")
def templates():
    return read_templates()


def stacks_with(templates, fault):
    faulty = copy.deepcopy(templates)
    for change in fault.changes:
        change(faulty)
    return resolve(Deployment("seefood", REGION, PARAMETERS | fault.parameters), faulty)


def test_templates_break_no_rule_in_any_variant(templates):
    for deployment in (Deployment("seefood", REGION, {}), Deployment("seefood", REGION, PARAMETERS), Deployment.load("seefood")):
        stacks, found = check_rules(deployment, templates)
        assert found == {}
        assert len(stacks.resources) > 50


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.rule}-{fault.name}")
def test_fault_is_reported_by_its_rule(templates, fault):
    found = broken(stacks_with(templates, fault))
    assert fault.rule in {one.rule for one in found}
    # by the rule itself, not because the rule stumbled over the fault
    assert not [one for one in found if one.rule == fault.rule and "cannot be checked" in one.finding.found]


def test_every_rule_has_two_faults_and_a_docstring_with_its_remedy():
    counts = Counter(fault.rule for fault in FAULTS)
    assert set(counts) == {name_of(rule) for rule in RULES}
    assert min(counts.values()) >= 2
    assert len({(fault.rule, fault.name) for fault in FAULTS}) == len(FAULTS)
    for rule in RULES:
        assert ":" in (rule.__doc__ or ""), name_of(rule)


def test_fault_in_an_optional_part_is_found_in_the_variant_that_has_it(templates):
    faulty = copy.deepcopy(templates)
    del faulty["identity"]["Resources"]["DeployRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]
    _, found = check_rules(Deployment("seefood", REGION, {}), faulty)
    assert {(one.rule, variant) for one, variant in found.items()} == {("github-trust-names-repository", "GitHub")}


def test_malformed_value_breaks_the_rules_that_read_it(templates):
    faulty = copy.deepcopy(templates)
    faulty["service"]["Resources"]["Service"]["Properties"]["DeploymentConfiguration"]["MaximumPercent"] = "many"
    found = {one.rule: one.finding for one in broken(resolve(Deployment("seefood", REGION, {}), faulty))}
    assert "'many' is not a number" in found["deployment-can-progress"].found


def template(resources, **parts):
    return {"storage": {"Resources": resources, **parts}}


def resolved(value, parameters=None, **parts):
    """The resolved value, and the problems met on the way."""
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {}}
    named = {"Type": "AWS::IAM::Role", "Properties": {"RoleName": {"Fn::Sub": "${Name}-x"}, "Path": "/a/"}}
    written = {"Bucket": bucket, "Role": named, "It": {"Type": "AWS::X::Y", "Properties": {"Value": value}}}
    parts.setdefault("Parameters", {"Name": {"Type": "String"}, "List": {"Type": "CommaDelimitedList", "Default": "a, b"}})
    stacks = resolve(Deployment("seefood", REGION, parameters or {}), template(written, **parts))
    return stacks.resources[2].properties.get("Value"), [problem for _, problem in stacks.problems]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Fn::Sub": "${Name}-${AWS::Region}-${!Name}"}, "seefood-eu-central-1-${Name}"),
        ({"Fn::Sub": ["${X}/${Bucket.Arn}", {"X": {"Ref": "Name"}}]}, "seefood/arn:aws:s3:::«storage.Bucket»"),
        ({"Fn::GetAtt": ["Role", "Arn"]}, "arn:aws:iam::111122223333:role/a/seefood-x"),
        ({"Fn::GetAtt": "Bucket.DomainName"}, "«storage.Bucket.DomainName»"),
        ({"Ref": "Role"}, "seefood-x"),
        ({"Fn::Join": ["-", [{"Ref": "Name"}, 1]]}, "seefood-1"),
        ({"Fn::Select": ["1", {"Ref": "List"}]}, "b"),
        ({"Fn::Split": ["/", "a/b"]}, ["a", "b"]),
        ({"Fn::Select": [1, {"Fn::Cidr": ["10.0.0.0/16", 4, 8]}]}, "10.0.1.0/24"),
        ({"Fn::Select": [0, {"Fn::GetAZs": ""}]}, "eu-central-1a"),
        ({"Fn::If": ["Yes", [{"Ref": "AWS::NoValue"}, 1], 2]}, [1]),
        ({"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}]}, None),
        ({"Fn::FindInMap": ["Sizes", {"Ref": "Name"}, "small"]}, 3),
        ({"Fn::Base64": {"Ref": "Name"}}, {"Fn::Base64": "seefood"}),
        (
            {"Statement": {"Effect": "Allow", "Condition": {"Bool": {"a": "b"}}}},
            {"Statement": {"Effect": "Allow", "Condition": {"Bool": {"a": "b"}}}},
        ),
    ],
)
def test_functions_are_resolved_as_cloudformation_does(value, expected):
    conditions = {
        "Yes": {"Fn::And": [{"Fn::Equals": [{"Ref": "Name"}, "seefood"]}, {"Fn::Not": [{"Condition": "No"}]}]},
        "No": {"Fn::Or": [{"Fn::Equals": [True, "false"]}, {"Fn::Equals": ["a", "b"]}]},
    }
    assert resolved(value, Conditions=conditions, Mappings={"Sizes": {"seefood": {"small": 3}}}) == (expected, [])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"Ref": "Nobody"}, "Nobody is referenced, but is neither a parameter nor a resource"),
        ({"Fn::Sub": "${Nobody.Arn}"}, "Nobody is referenced"),
        ({"Fn::If": ["Never", 1, 2]}, "condition 'Never' is used, but not defined"),
        ({"Fn::Select": [5, ["a"]]}, "Fn::Select"),
        ({"Fn::Cidr": ["10.0.0.0/24", 4, 12]}, "Fn::Cidr"),
        ({"Fn::Sub": "${List}"}, "List is a list"),
        ({"Fn::Transform": {"Name": "x"}}, "Fn::Transform is not supported by preflight"),
    ],
)
def test_value_that_cannot_be_resolved_is_reported_as_a_problem(value, problem):
    _, problems = resolved(value)
    assert len(problems) == 1
    assert problem in problems[0]


@pytest.mark.parametrize(
    ("declared", "value", "message"),
    [
        ({"Type": "String", "AllowedValues": ["a", "b"]}, "c", "expected one of a, b"),
        ({"Type": "Number", "MinValue": 1}, "0", "expected 1 to inf"),
        ({"Type": "Number"}, "x", "expected a number"),
        ({"Type": "String", "AllowedPattern": "[a-z]+"}, "A", "expected the pattern"),
        ({"Type": "CommaDelimitedList", "AllowedPattern": "[a-z]+"}, "a,B", "'B'"),
        ({"Type": "List<AWS::EC2::Subnet::Id>"}, "", "is empty, expected ids of List<AWS::EC2::Subnet::Id>"),
        ({"Type": "String", "MinLength": 3}, "ab", "expected at least 3 characters"),
    ],
)
def test_parameter_that_cloudformation_would_refuse_is_reported(declared, value, message):
    _, problems = resolved(1, {"X": value}, Parameters={"X": declared, "Name": {"Type": "String"}})
    assert len(problems) == 1
    assert message in problems[0]
    assert problems[0].startswith("parameter X is ")


def test_policies_are_decided_as_iam_does():
    def role(*statements, boundary=None):
        policies = [{"PolicyName": "x", "PolicyDocument": {"Statement": list(statements)}}]
        written = {
            "Type": "AWS::IAM::Role",
            "Properties": {"Policies": policies, **({"PermissionsBoundary": boundary} if boundary else {})},
        }
        stacks = resolve(Deployment("seefood", REGION, {}), template({"Role": written}))
        return stacks, stacks.resources[0]

    read = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::models/*"}
    assert may(*role(read), "s3:GetObject", "arn:aws:s3:::models/a")
    assert may(*role(read), "S3:getobject", "arn:aws:s3:::models/a/b")
    assert not may(*role(read), "s3:GetObject", "arn:aws:s3:::models")
    assert not may(*role(read), "s3:PutObject", "arn:aws:s3:::models/a")
    assert not may(*role(read, {**read, "Effect": "Deny"}), "s3:GetObject", "arn:aws:s3:::models/a")
    no_tls = {**read, "Effect": "Deny", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    assert may(*role(read, no_tls), "s3:GetObject", "arn:aws:s3:::models/a")
    assert not may(
        *role(read, boundary="arn:aws:iam::aws:policy/CloudWatchLogsFullAccess"), "s3:GetObject", "arn:aws:s3:::models/a"
    )
    all_but = {"Effect": "Allow", "NotAction": "s3:*", "NotResource": "arn:aws:s3:::models"}
    assert may(*role(all_but), "ecs:Poll", "x")
    assert not may(*role(all_but), "ecs:Poll", "arn:aws:s3:::models")
    passing = {
        "Effect": "Allow",
        "Action": "iam:PassRole",
        "Resource": "*",
        "Condition": {"StringEquals": {"iam:PassedToService": ["a", "b"]}},
    }
    assert may(*role(passing), "iam:PassRole", "x", {"iam:passedtoservice": "b"})
    assert not may(*role(passing), "iam:PassRole", "x", {"iam:PassedToService": "c"})


# --- the command ---
@pytest.fixture
def folder(tmp_path):
    """A copy of the templates, to put faults into their text."""
    for kind in ORDER:
        shutil.copy(TEMPLATE_FOLDER / f"{kind}.yaml", tmp_path)
    return tmp_path


def test_command_ends_with_0_and_lists_what_was_checked(capsys, folder):
    assert main(["seefood", "--only", "rules", "--templates", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{len(RULES)} rules" in shown
    assert shown.endswith("all checks passed: ready to deploy\n")


def test_command_ends_with_1_and_names_rule_resource_value_and_what_to_do(capsys, folder):
    path = folder / "service.yaml"
    text = path.read_text()
    path.write_text(text.replace("HealthCheckPath: /readyz", "HealthCheckPath: /ping"))
    assert path.read_text() != text
    assert main(["seefood", "--only", "rules", "--templates", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert "rule health-check-asks-readiness  failed   service.TargetGroup: HealthCheckPath is /ping, expected /readyz" in shown
    assert "let the target group check /readyz" in shown
    assert shown.endswith("1 check failed: fix it before deploying\n")


def test_command_counts_the_checks_that_failed(capsys, folder):
    path = folder / "service.yaml"
    path.write_text(path.read_text().replace("HealthCheckPath: /readyz", "HealthCheckPath: /ping").replace("SslPolicy", "Policy"))
    assert main(["seefood", "--only", "rules", "--templates", str(folder)]) == 1
    assert capsys.readouterr().out.endswith("2 checks failed: fix them before deploying\n")


def test_command_names_the_template_that_is_not_yaml(capsys, folder):
    (folder / "cluster.yaml").write_text("Resources: [")
    assert run(lambda: main(["seefood", "--only", "rules", "--templates", str(folder)])) == 1
    assert "cluster.yaml is not a valid template" in capsys.readouterr().err


def test_command_lists_the_deployments_when_the_name_is_unknown(capsys):
    assert run(lambda: main(["nobody"])) == 1
    assert "there is no deployment 'nobody', expected one of ['seefood']" in capsys.readouterr().err


def test_command_without_a_deployment_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "name is required: a file in scripts/ecs/deployments" in capsys.readouterr().err


def test_list_says_what_each_rule_prevents(capsys):
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(RULES)


def test_list_ends_quietly_when_its_reader_goes_away():
    command = [sys.executable, "-m", "scripts.ecs.preflight.preflight", "--list"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        listing.stdout.close()  # before the first line, so that every write fails; `| head -1` closes after the first
        assert listing.stderr is not None
        errors = listing.stderr.read()
    assert (listing.returncode, errors) == (128 + signal.SIGPIPE, "")


def test_cfn_lint_finds_an_unknown_property(folder):
    path = folder / "observability.yaml"
    path.write_text(path.read_text().replace("RetentionInDays", "RetentionDays"))
    lines = run_cfn_lint(Deployment("seefood", REGION, {}), folder)
    # no finding in the other templates
    assert {(line.state, line.message.partition(":")[0]) for line in lines} == {(FAILED, "observability.yaml")}
    assert any("RetentionDays" in line.message for line in lines)


def test_checkov_report_becomes_rows():
    failed = {"file_path": "/storage.yaml", "resource": "AWS::S3::Bucket.X", "check_id": "CKV_AWS_53", "check_name": "Ensure it"}
    found = checkov_results({"results": {"failed_checks": [failed]}, "summary": {"passed": 70, "parsing_errors": 1}})
    assert [line.message for line in found] == ["storage.yaml AWS::S3::Bucket.X CKV_AWS_53 Ensure it", "1 templates cannot be read"]
    assert [line.state for line in checkov_results({"summary": {"passed": 78, "skipped": 7, "parsing_errors": 0}})] == [OK]
    # what checkov prints if it finds no template at all
    assert [line.state for line in checkov_results({"passed": 0, "failed": 0, "skipped": 0, "parsing_errors": 0})] == [FAILED]


def test_checkov_is_skipped_where_it_cannot_be_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(linters, "CHECKOV_VENV", tmp_path / "venv")
    monkeypatch.setattr(linters, "CHECKOV", str(tmp_path / "checkov-0-py3-none-any.whl"))
    (line,) = run_checkov(TEMPLATE_FOLDER)
    assert line.state == SKIPPED
    assert "could not be installed" in line.message
    # the next run tries again
    assert not list((tmp_path / "venv").glob("installed-*"))


def test_without_credentials_the_account_is_skipped(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    (line,) = account_results(Deployment("seefood", REGION, {}), TEMPLATE_FOLDER)
    assert line.state == SKIPPED
    assert "there are no AWS credentials" in line.message
