"""An authority of our own, by openssl: certificates for servers and clients."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.processes import succeed

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Authority:
    """Keeps everything in one directory: ``ca.pem``, and ``NAME.pem`` with ``NAME.key`` for each that was issued."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.certificate, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        subject = ["-x509", "-subj", f"/CN=authority {name}", "-days", "2"]
        succeed(["openssl", "req", *_KEY, *subject, "-keyout", str(self._key), "-out", str(self.certificate)])

    def issue(self, name: str, *alternative_names: str, rsa: bool = False) -> tuple[Path, Path]:
        """A certificate and its key. Names such as ``IP:127.0.0.1`` and ``DNS:r.example``."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        kind = ["-newkey", "rsa:2048", "-nodes"] if rsa else _KEY
        extra = ["-addext", f"subjectAltName={','.join(alternative_names)}"] if alternative_names else []
        succeed(
            [
                *("openssl", "req", *kind, "-x509", "-subj", f"/CN={name}", "-days", "2", *extra),
                *("-CA", str(self.certificate), "-CAkey", str(self._key)),
                *("-addext", "basicConstraints=critical,CA:FALSE", "-keyout", str(key), "-out", str(certificate)),
            ]
        )
        return certificate, key
