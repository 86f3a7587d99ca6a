"""HTTPS for whoever has no certificate: `make serve TLS=1`."""

import time
from dataclasses import replace
from pathlib import Path

from scripts.door.http.tls import DAYS, make_self_signed
from scripts.serving.door import local_host
from scripts.settings import Settings


def with_certificate(settings: Settings, host: str, folder: Path) -> Settings:
    """The settings, with a self-signed certificate in `folder` if they ask for HTTPS and name none. ValueError without openssl."""
    if not settings.tls or settings.cert:
        return settings
    cert, key = folder / "cert.pem", folder / "key.pem"
    # the one of an earlier start stays, as browsers ask again for each new one, until it is about to expire
    if not (cert.exists() and key.exists()) or time.time() - cert.stat().st_mtime > (DAYS - 30) * 24 * 3600:
        cert, key = make_self_signed(folder, local_host(host))
    return replace(settings, cert=str(cert), key=str(key))
