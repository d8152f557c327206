"""Every error imagedist raises on purpose. The branch says what the caller should do.

ImagedistError
├── InputError            what the user gave is wrong: tell the user (exit 2)
│   ├── ConfigError       a configuration file is wrong: names the file and the key
│   ├── ExistsError       the name is taken: use what is there, or another name
│   └── PreconditionError not in the state that the request needs: change that first
├── NotFoundError         nobody has it: HTTP 404 with the distribution spec's code
├── SourceError           this source failed: try the next one
│   ├── UnauthorizedError the source wants (other) credentials
│   │   └── ChallengeError of whoever asks: HTTP 401, so that the client sends its own
│   └── OverloadedError   the source (or we) queue no more: HTTP 503, try later or elsewhere
├── IntegrityError        the bytes are wrong: drop them, blame the source, try another
├── UnacceptableError     the image or a layer of it is unsafe or unsupported: stop
└── StorageError          the local disk, ramdisk or a local lock failed: stop, nothing was committed
    └── FullError         no room: evict and try again, or go on without storing

Messages are a short verb phrase, what it was about (reference, digest), what was expected, and the remedy.
"""

from __future__ import annotations


class ImagedistError(Exception):
    """Base of the tree. ``str(error)`` is one readable line."""

    exit_code = 1


class InputError(ImagedistError):
    exit_code = 2


class ConfigError(InputError):
    pass


class ExistsError(InputError):
    pass


class PreconditionError(InputError):
    pass


class NotFoundError(ImagedistError):
    """Nobody has it.

    Args:
        message: what was looked for and where.
        code: the distribution spec's error code: ``MANIFEST_UNKNOWN``, ``BLOB_UNKNOWN`` or ``NAME_UNKNOWN``.
    """

    def __init__(self, message: str, code: str = "BLOB_UNKNOWN") -> None:
        super().__init__(message)
        self.code = code


class SourceError(ImagedistError):
    pass


class UnauthorizedError(SourceError):
    """The source wants (other) credentials.

    Args:
        status: 401 when it challenged, 403 when it denied.
    """

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


class ChallengeError(UnauthorizedError):
    """The credentials of whoever asks decide, and he sent none, or not the right ones.

    Attributes:
        code: of a site route's 401, which otherwise means the node and its site token.
    """

    code = "LOGIN_REQUIRED"


class OverloadedError(SourceError):
    pass


class IntegrityError(ImagedistError):
    pass


class UnacceptableError(ImagedistError):
    pass


class StorageError(ImagedistError):
    pass


class FullError(StorageError):
    pass


def storage_error(action: str, error: OSError) -> StorageError:
    """Maps an ``OSError`` of the local disk to one line that names the remedy."""
    import errno

    remedy = {
        errno.ENOSPC: "; free some space or lower the quota",
        errno.EDQUOT: "; free some space or raise the disk quota",
        errno.EACCES: "; run as a user who may write there",
        errno.EPERM: "; run as a user who may do that",
        errno.EROFS: "; choose a directory on a writable file system",
    }.get(error.errno or 0, "")
    where = f" ({error.filename})" if error.filename else ""
    kind = FullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
    return kind(f"cannot {action}{where}: {error.strerror or error}{remedy}")


def listen_error(address: object, error: OSError) -> InputError:
    """Maps an ``OSError`` of a listening socket to one line that names the address and the remedy."""
    import errno

    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"cannot listen on {address}: the port is in use; stop the other process or configure another port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InputError(f"cannot listen on {address}: this host has no such address; configure one it has")
    if error.errno == errno.EACCES:
        return InputError(f"cannot listen on {address}: ports below 1024 need root; configure a higher port")
    return InputError(f"cannot listen on {address}: {error.strerror or error}")
