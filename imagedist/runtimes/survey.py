"""Every runtime of this machine: what each gets from us, and what its configuration lacks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from imagedist.errors import ConfigError, ImagedistError, InputError
from imagedist.runtimes import containerd, containers, docker, nerdctl, rancher
from imagedist.runtimes.asking import glance
from imagedist.runtimes.plan import plan
from imagedist.runtimes.report import Found, RuntimeReport
from imagedist.runtimes.settings import Settings

_FINDERS: dict[str, Callable[[Settings], Found | None]] = {
    "containerd": containerd.find,  # before those that use it: they are restarted after it
    "docker": docker.find,
    "nerdctl": nerdctl.find,
    "podman": containers.find_podman,
    "crio": containers.find_crio,
    "k3s": rancher.find_k3s,
    "rke2": rancher.find_rke2,
}


def found(settings: Settings, names: Sequence[str] = ()) -> list[Found]:
    """The runtimes of this machine, or those of them that are named. Asks the programs; changes nothing.

    Raises:
        InputError: a name that is none, or of a runtime that is not here.
    """
    for name in names:
        if name not in _FINDERS:
            raise InputError(f"no runtime {name!r}: expected one of {', '.join(_FINDERS)}")
    here = {name: finder(settings) for name, finder in _FINDERS.items() if not names or name in names}
    for name, runtime in here.items():
        if runtime is None and name in names:
            raise InputError(f"{name} is not on this machine")
    return [runtime for runtime in here.values() if runtime is not None]


def need_one_containerd(settings: Settings, chosen: Sequence[Found]) -> None:
    """One snapshotter serves one containerd: the garbage collection of a second would remove the first one's snapshots.

    Raises:
        InputError: several containerds are chosen, or one is while another has it already.
    """
    keys = {runtime.key for runtime in chosen if runtime.is_containerd}
    others = [
        runtime.key
        for runtime in found(settings)
        if runtime.key in keys or (runtime.is_containerd and has_snapshotter(runtime))
    ]
    if keys and len(others) > 1:
        raise InputError(
            f"{' and '.join(others)} are containerds of their own, and our snapshotter serves one: name that one "
            f"(`imagedist runtimes --apply {others[-1]}`), and --undo the other if it has it"
        )


def has_snapshotter(runtime: Found) -> bool:
    """Whether its files make it depend on our snapshotter."""
    for edit in runtime.edits:
        if edit.is_snapshotters:
            text = glance(edit.path)
            with contextlib.suppress(ConfigError):
                if text and edit.change(text) == text:
                    return True
    return False


def survey(settings: Settings | None = None, names: Sequence[str] = ()) -> list[RuntimeReport]:
    """A report for each; changes nothing. What hides something is in it for those that are named.

    Raises:
        InputError: a name that is none, or of a runtime that is not here.
    """
    return [report(runtime, names) for runtime in found(settings or Settings(), names)]


def report(runtime: Found, names: Sequence[str] = ()) -> RuntimeReport:
    """What one runtime gets, and what its files lack."""
    changes: dict[str, str] = {}
    problem = None
    try:
        wanted = plan([runtime], names)
        changes = {str(change.path): change.diff() for change in wanted.files}
        changes |= {str(directory): "(a directory)" for directory, _ in wanted.directories}
    except ImagedistError as error:
        problem = str(error)
    return RuntimeReport(
        key=runtime.key,
        name=runtime.name,
        version=runtime.version,
        p2p=runtime.p2p,
        parallel_unpack=runtime.parallel_unpack,
        how=runtime.how,
        is_configured=not changes and problem is None,
        changes=changes,
        restart=" ".join(runtime.restart),
        notes=runtime.notes,
        problem=problem,
    )
