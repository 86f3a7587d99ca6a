"""HTTPS for whoever has no certificate: `make serve TLS=1`."""

from dataclasses import replace
from pathlib import Path

from scripts.door.http.tls import make_self_signed
from scripts.serving.door import local_host
from scripts.settings import Settings


def with_certificate(settings: Settings, host: str, folder: Path) -> Settings:
    """The settings, with a self-signed certificate in `folder` if they ask for HTTPS and name none. ValueError without openssl."""
    if not settings.tls or settings.cert:
        return settings
    cert, key = folder / "cert.pem", folder / "key.pem"
    if not (cert.exists() and key.exists()):  # the one of an earlier start stays: browsers ask again for each new one
        cert, key = make_self_signed(folder, local_host(host))
    return replace(settings, cert=str(cert), key=str(key))
