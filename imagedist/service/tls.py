"""The certificate that a service shows, read again when its files change."""

from __future__ import annotations

import logging
import ssl
from asyncio import sslproto
from pathlib import Path

from imagedist.errors import ConfigError

_LOG = logging.getLogger(__name__)

RECEIVED_BYTES = 32 << 10
"""What asyncio keeps for each TLS connection to receive into, instead of 256 KiB: a server receives requests. It is one
value for the whole process, which is why a plain one leaves it alone."""

_Stamps = tuple[tuple[int, int, int] | None, ...]


class ServerTls:
    """TLS 1.2 and 1.3 with OpenSSL's own choice of ciphers.

    Args:
        certificate: PEM, the chain in order. key: PEM, not encrypted.
        client_ca: PEM; certificates of other authorities are refused. Whether one has to be shown at all is
            ``client_certificates.require_certificate``'s to say.

    Raises:
        ConfigError: a file cannot be read, or they do not belong together.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        sslproto.SSLProtocol.max_size = RECEIVED_BYTES
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self.wants_certificates = client_ca is not None
        self._stamps = self._refused = self._stamped()
        self.context = self._loaded()

    def reload(self) -> None:
        """For connections from now on, if the files have changed. Files that do not fit are logged, once, and the old
        certificate stays: a renewal writes one file after the other. Blocking, a few ms when they have changed."""
        stamps = self._stamped()
        if stamps in (self._stamps, self._refused):
            return
        try:
            self.context = self._loaded()
        except ConfigError as error:
            self._refused = stamps
            _LOG.error("%s; the old certificate stays in use", error)
        else:
            self._stamps = self._refused = stamps
            _LOG.info("read the new certificate %s", self._certificate)

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot use certificate {self._certificate} with key {self._key}: {reason}") from error
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ValueError) as error:
                raise ConfigError(f"cannot use {self._client_ca} as client CA: {error}") from error
        return context

    def _stamped(self) -> _Stamps:
        paths = [self._certificate, self._key, *([self._client_ca] if self._client_ca else [])]
        return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _no_password() -> str:
    raise ValueError("the key is encrypted: store it without a password, readable by the service alone")
