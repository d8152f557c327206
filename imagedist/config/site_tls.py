"""How a process meets its site's HTTPS: whom it trusts, and what it shows where a proxy wants client certificates."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from imagedist.config.values import AbsolutePath, Table


class SiteTlsTable(Table):
    """Part of every process's own table. All three files are read again when they change."""

    site_ca_file: AbsolutePath | None = None
    """Authorities that the certificates of this site and its siblings may come from, besides the system's."""
    site_client_certificate: AbsolutePath | None = None
    site_client_key: AbsolutePath | None = None
    """Shown to proxies that ask for one (``proxy.tls_client_ca``). No key: it is in the same file."""

    @model_validator(mode="after")
    def _key_needs_a_certificate(self) -> Self:
        if self.site_client_key is not None and self.site_client_certificate is None:
            raise ValueError("site_client_key needs site_client_certificate beside it")
        return self
