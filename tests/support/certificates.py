"""A certificate authority for tests, by the ``openssl`` program."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Authority:
    """Its certificate is ``ca``; ``issue`` makes others."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.ca, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        _openssl("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.ca)

    def issue(self, name: str, *addresses: str, rsa: bool = False) -> tuple[Path, Path]:
        """A certificate for IP addresses (127.0.0.1 if none is given), and its key."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        kind = ["-newkey", "rsa:2048", "-nodes"] if rsa else _KEY
        names = ",".join(f"IP:{address}" for address in addresses or ("127.0.0.1",))
        _openssl(
            *("req", "-x509", *kind, "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate),
            *("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", self.ca, "-CAkey", self._key),
        )
        return certificate, key

    def client_context(self) -> ssl.SSLContext:
        """Trusts this authority alone."""
        return ssl.create_default_context(cafile=self.ca)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
