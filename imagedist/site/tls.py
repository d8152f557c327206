"""TLS towards the site's own services, as a process's table says it."""

from __future__ import annotations

from imagedist.config.site_tls import SiteTlsTable
from imagedist.oci.tls import Tls


def site_tls(table: SiteTlsTable) -> Tls | None:
    """None: the system's authorities are enough, and nobody is shown a certificate.

    Raises:
        ConfigError: a file cannot be read or used; names it.
    """
    if table.site_ca_file is None and table.site_client_certificate is None:
        return None
    return Tls(table.site_ca_file, table.site_client_certificate, table.site_client_key)
