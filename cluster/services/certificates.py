"""Certificates for TLS on loopback: an authority, a server and a client, made once with openssl."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cluster.services.process import ServiceError, run_to_end

# Long enough for any checkout, and short of what some clients refuse.
VALID_DAYS = 800


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files in one folder; the keys are PKCS #8 without a password, readable by their owner only."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate that clients trust."""
        return self.folder / "authority.pem"

    @property
    def server(self) -> Path:
        """For localhost and 127.0.0.1."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """The server's key."""
        return self.folder / "server.key"

    @property
    def client(self) -> Path:
        """For the user that may log in without a password."""
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        """The client's key."""
        return self.folder / "client.key"


def make_certificates(folder: Path, *, client_name: str) -> Certificates:
    """Makes what is missing in a folder; ``client_name`` is the common name of the client's certificate.

    Raises:
        ServiceError: openssl is missing or fails.
    """
    made = Certificates(folder=folder)
    if made.client.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = folder / "authority.key"
    _new_key(authority_key)
    _openssl(
        *("req", "-x509", "-new", "-key", authority_key, "-days", VALID_DAYS, "-subj", "/CN=raypipe test authority"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
        *("-out", made.authority),
    )
    for name, key, certificate, more in (
        ("localhost", made.server_key, made.server, "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        (client_name, made.client_key, made.client, "extendedKeyUsage=clientAuth"),
    ):
        _new_key(key)
        request, extensions = folder / "request.pem", folder / "extensions.cnf"
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        extensions.write_text(f"basicConstraints=CA:FALSE\n{more}\n")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial"),
            *("-days", VALID_DAYS, "-extfile", extensions, "-out", certificate),
        )
        request.unlink()
        extensions.unlink()
    return made


def _new_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def _openssl(*arguments: str | int | Path) -> None:
    try:
        done = run_to_end(["openssl", *map(str, arguments)])
    except FileNotFoundError:
        raise ServiceError("The program openssl is missing: apt-get install openssl") from None
    if done.returncode != 0:
        raise ServiceError(f"openssl {arguments[0]} failed.\n{done.stderr}")
