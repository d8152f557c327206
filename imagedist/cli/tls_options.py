"""The options of commands that ask registries themselves: whom to trust there, and what to show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagedist.errors import InputError

if TYPE_CHECKING:
    from imagedist.oci.tls import TlsFiles

CaFile = Annotated[Path | None, typer.Option("--ca-file", help="Authorities to trust besides the system's, PEM.")]
ClientCertificate = Annotated[
    Path | None,
    typer.Option("--client-certificate", help="Shown to whom is named here and asks for one, to nobody else; PEM."),
]
ClientKey = Annotated[
    Path | None, typer.Option("--client-key", help="Its key, not encrypted. Default: in the same file.")
]


def tls_files(ca_file: Path | None, client_certificate: Path | None, client_key: Path | None) -> TlsFiles | None:
    """What the options say; None: nothing. Raises InputError: a key without its certificate."""
    if client_key is not None and client_certificate is None:
        raise InputError("--client-key needs --client-certificate beside it")
    if ca_file is None and client_certificate is None:
        return None
    from imagedist.oci.tls import TlsFiles  # here: a pull by the agent needs no TLS

    return TlsFiles(ca_file, client_certificate, client_key)
