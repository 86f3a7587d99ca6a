"""The image's health check: `python -m scripts.serving.healthcheck`. Exit status 0 if the server on this machine is ready, else 1.

With HTTPS by SEEFOOD_TLS or SEEFOOD_CERT it asks by HTTPS, whatever the certificate says: it is for another name than 127.0.0.1.
"""

import contextlib
import http.client
import ssl
import sys

from scripts.command import fail, parser, run
from scripts.settings import Settings

TIMEOUT_S = 4.0  # less than the Dockerfile gives this command


def readiness(port: int, settings: Settings) -> tuple[int, str]:
    """HTTP's status and the body of /readyz. OSError or HTTPException without an answer."""
    connection: http.client.HTTPConnection
    if settings.tls or settings.cert:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace").strip()


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--port", type=int, default=8080)
    args = arguments.parse_args()
    try:
        status, body = readiness(args.port, Settings.from_environment())
    except http.client.HTTPException as error:
        return fail(f"the server's answer cannot be read: {error!r}")
    return 0 if status == 200 else fail(body)


if __name__ == "__main__":
    sys.exit(run(main))
