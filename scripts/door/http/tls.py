"""TLS: a server's context, and a self-signed pair for a machine that has no certificate."""

import shutil
import ssl
import subprocess
from pathlib import Path

# forward secrecy and authenticated encryption alone, as Mozilla's "intermediate" list of 2024; TLS 1.3 has its own
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
DAYS = 365


def make_context(certfile: Path, keyfile: Path) -> ssl.SSLContext:
    """A server's context, TLS 1.2 and newer. OSError for files that cannot be read, ValueError if they are no pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    for path in (certfile, keyfile):
        path.open("rb").close()  # OpenSSL's own error does not name the file
    try:
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(
            f"{certfile} and {keyfile} are not a certificate and its key, without a password, in PEM: {error}"
        ) from error
    return context


def make_self_signed(folder: Path, host: str = "localhost") -> tuple[Path, Path]:
    """Certificate and key in `folder`, by openssl, for localhost, 127.0.0.1 and `host`. ValueError if it is missing or fails."""
    if not shutil.which("openssl"):
        raise ValueError("openssl is not installed: install it, or give a certificate and its key")
    certfile, keyfile = folder / "cert.pem", folder / "key.pem"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_address = ":" in host or host.replace(".", "").isdigit()
    names = f"subjectAltName=DNS:localhost,IP:127.0.0.1,{'IP' if is_address else 'DNS'}:{host}"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", str(DAYS), "-subj", f"/CN={host}", "-addext", names, "-keyout", str(keyfile), "-out", str(certfile)]
    keyfile.touch(mode=0o600)
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ValueError(f"openssl made no certificate for {host}: {done.stderr.strip()}")
    return certfile, keyfile


def _no_password() -> str:
    return ""  # OpenSSL would ask the terminal
