"""TLS towards one registry or site: the system's authorities, one more if there is one, a certificate of our own."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import NamedTuple

from imagedist.errors import ConfigError

_LOG = logging.getLogger(__name__)


class TlsFiles(NamedTuple):
    """As ``Tls`` takes them."""

    ca_file: Path | None
    certificate: Path | None = None
    key: Path | None = None

    def own(self) -> Tls:
        """Towards whom they are for. Raises ConfigError."""
        return Tls(self.ca_file, self.certificate, self.key)

    def elsewhere(self) -> Tls | None:
        """Towards whom it leads to, who is shown nothing; None: as the system says. Raises ConfigError."""
        return Tls(self.ca_file) if self.ca_file is not None else None


class Tls:
    """Verifies always. Files that are replaced (certificates that live for a day) count for the next connection.

    Args:
        ca_file: authorities besides the system's.
        certificate, key: shown to whoever asks for one; ``key`` None: it is in the same file.

    Raises:
        ConfigError: a file cannot be read or used; names it.
    """

    def __init__(self, ca_file: Path | None, certificate: Path | None = None, key: Path | None = None) -> None:
        self._ca_file = ca_file
        self._certificate = certificate
        self._key = key
        self._seen: tuple[object, ...] = ()
        self._said = ""
        self._context = ssl.create_default_context()
        self.refresh()

    def context(self) -> ssl.SSLContext:
        """The same one always; what it holds is fresh. Files that do not fit, as while they are being replaced, are
        logged once, and tried again the next time."""
        try:
            self.refresh()
        except ConfigError as error:
            if str(error) != self._said:
                _LOG.warning("%s; what was read before stays in use", error)
            self._said = str(error)
        else:
            self._said = ""
        return self._context

    def trust(self, authorities: str) -> None:
        """These besides, PEM. Raises ssl.SSLError: they are none."""
        self._context.load_verify_locations(cadata=authorities)

    def refresh(self) -> None:
        """Reads what has changed. Raises ConfigError."""
        files = [path for path in (self._ca_file, self._certificate, self._key) if path is not None]
        seen = tuple(_state(path) for path in files)
        if seen == self._seen:
            return
        if self._ca_file is not None:
            try:
                self._context.load_verify_locations(self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"cannot use the certificates in {self._ca_file}: {_said(error)}") from error
        if self._certificate is not None:
            try:
                # Elsewhere first: a certificate without its key would take the place of one that works.
                for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self._context):
                    context.load_cert_chain(self._certificate, self._key, password=_no_password)
            except (OSError, ssl.SSLError) as error:
                names = " and ".join(str(path) for path in (self._certificate, self._key) if path is not None)
                raise ConfigError(f"cannot use the client certificate in {names}: {_said(error)}") from error
        self._seen = seen


def trusting(authorities: str, whose: str) -> Tls:
    """Trusts these besides the system's.

    Args:
        authorities: PEM. whose: for messages.

    Raises:
        ConfigError: they are none.
    """
    tls = Tls(None)
    try:
        tls.trust(authorities)
    except ssl.SSLError as error:
        raise ConfigError(f"cannot use the certificates of {whose}: {error.reason}") from error
    return tls


def _no_password() -> str:
    raise OSError("the key is encrypted; give one that is not")


def _state(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _said(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key does not belong to the certificate"
        if error.reason is None:
            return "not PEM of a certificate and its key"
    return (error.strerror or str(error)).partition(" (_ssl")[0]
