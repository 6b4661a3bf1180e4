"""Certificates for one test, made by openssl."""

import dataclasses
import pathlib
import subprocess

from .process import PATIENCE


@dataclasses.dataclass
class Identity:
    """A certificate and its key, in PEM."""

    cert: pathlib.Path
    key: pathlib.Path


class Authority:
    """Whoever trusts `cert` trusts what it issues."""

    def __init__(self, openssl, folder, name="authority"):
        self.openssl, self.folder = openssl, folder
        self.cert, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        constraint = "basicConstraints=critical,CA:TRUE"
        self._make(name, self.cert, self.key, "-addext", constraint)

    def issue(self, name, *alternatives):
        """A certificate for the given subject alternative names, such as `IP:127.0.0.1`."""
        identity = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        names = ["-addext", f"subjectAltName={','.join(alternatives)}"]
        issuer = ["-CA", self.cert, "-CAkey", self.key, "-addext", "basicConstraints=CA:FALSE"]
        self._make(name, identity.cert, identity.key, *issuer, *names)
        return identity

    def _make(self, name, cert, key, *options):
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        command = [self.openssl, "req", "-x509", *curve, "-subj", f"/CN={name}"]
        subprocess.run(
            [*command, "-keyout", key, "-out", cert, *options],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            env={},
        )
