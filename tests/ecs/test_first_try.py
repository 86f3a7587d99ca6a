"""The README's first try, from an empty account: its steps are numbered and counted, and what needs no AWS is run as written."""

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.ecs.aws import Aws
from scripts.ecs.deploy import image
from scripts.ecs.deploy.image import ImageError, commit_tag
from scripts.ecs.preflight.account import certificate_is_issued
from scripts.ecs.preflight.resolve.templates import resolve
from scripts.ecs.preflight.result import OK
from scripts.ecs.stacks import Deployment, read_templates
from tests.conftest import LIMIT_S, ROOT
from tests.ecs.scripted_aws import moto_server

REGION, NAME = "eu-central-1", "seefood.example.com"
TEXT = (ROOT / "scripts/ecs/README.md").read_text().partition("## First try")[2].partition("\n## ")[0]
STEPS = re.split(r"^\d+\. ", TEXT, flags=re.MULTILINE)[1:]


def commands(word):
    """The commands of the first try that contain this."""
    found = [line.strip() for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    return [line for line in found if word in line]


def run(command, home, **environment):
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def certificate(tmp_path):
    (command,) = commands("openssl req")
    run(command, tmp_path)
    return tmp_path / "seefood-cert.pem"


def test_steps_are_numbered_counted_and_in_order():
    assert [int(number) for number in re.findall(r"^(\d+)\. ", TEXT, re.MULTILINE)] == list(range(1, 13))
    assert TEXT.lstrip().startswith(", from an empty account\n\nTwelve steps.")
    order = ("aws configure", "create-service-linked-role", "get-service-quota", "openssl req", "deployments/seefood.yaml")
    order = (*order, "git commit", "make preflight STACK", "make deploy STACK", "Subscription", "CNAME `", "curl --cacert")
    assert sorted(map(TEXT.index, order)) == [TEXT.index(word) for word in order]
    # a call without a region goes to another one than the deployment's, or to none; IAM and STS have none
    assert [line for line in commands("aws ") if not re.search(r"--region|aws (iam|sts|configure)", line)] == []


def test_certificate_is_imported_and_passes_preflight(certificate):
    if shutil.which("aws") is None:
        pytest.skip("there is no AWS CLI here")
    (command,) = commands("import-certificate")
    with moto_server(REGION):
        arn = json.loads(run(command, certificate.parent, AWS_ENDPOINT_URL=os.environ["AWS_ENDPOINT_URL"]))["CertificateArn"]
        deployment = Deployment("seefood", REGION, {"CertificateArn": arn, "DomainName": NAME})
        ((state, message),) = certificate_is_issued(Aws(REGION), resolve(deployment, read_templates()))
    assert state == OK
    assert NAME in message


def test_deploy_wants_the_commit_and_ignores_key_files_in_the_folder(tmp_path, monkeypatch):
    (tmp_path / "scripts/ecs/deployments").mkdir(parents=True)
    for name in (".gitignore", "scripts/ecs/deployments/seefood.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.setattr(image, "ROOT", tmp_path)
    git = "git -c user.name=a -c user.email=a@b.c"
    run(f"cd '{tmp_path}' && git init -q && git add -A && {git} commit -qm first", tmp_path)
    for name in ("key.pem", "cert.pem", "private.key"):
        (tmp_path / name).write_text("secret")
    before = commit_tag()
    with (tmp_path / "scripts/ecs/deployments/seefood.yaml").open("a") as file:
        file.write("  AlarmEmail: somebody@example.com\n")
    with pytest.raises(ImageError, match="differ from the commit"):
        commit_tag()
    (command,) = commands("git commit")
    run(f"cd '{tmp_path}' && {command.replace('git', git, 1)}", tmp_path)
    assert commit_tag() != before


def test_curl_verifies_the_certificate_through_the_load_balancers_name(certificate):
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"host": self.headers["Host"], "bytes": len(body)}).encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("seefood-key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (command,) = commands("--connect-to")
    command = command.replace("seefood-NUMBER.eu-central-1.elb.amazonaws.com:443", f"127.0.0.1:{server.server_port}")
    command = command.replace("-T ", f"-T '{ROOT}'/")
    try:
        answer = json.loads(run(command.replace("curl ", "curl --noproxy '*' "), certificate.parent))
    finally:
        server.shutdown()
        server.server_close()
    assert answer == {"host": NAME, "bytes": (ROOT / "model_store/starter/bibimbap.jpg").stat().st_size}
