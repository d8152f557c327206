"""nerdctl: containerd's hosts.toml, and our snapshotter for what it runs."""

from __future__ import annotations

from imagedist.runtimes.asking import ask, is_installed
from imagedist.runtimes.documents import with_values
from imagedist.runtimes.report import Edit, Found
from imagedist.runtimes.settings import SNAPSHOTTER, Settings

_CONFIG = "/etc/nerdctl/nerdctl.toml"


def find(settings: Settings) -> Found | None:
    if not is_installed("nerdctl") and not settings.at(_CONFIG).exists():
        return None
    words = ask("nerdctl", "--version").split()
    return Found(
        "nerdctl",
        "nerdctl",
        words[-1] if words else "unknown",
        "yes, any registry, by containerd's hosts.toml",
        "what is unpacked already: images of `imagedist pull`, and of kubelet's pulls in its namespace",
        "nerdctl.toml: snapshotter",
        edits=(Edit(settings.at(_CONFIG), _with_snapshotter, is_snapshotters=True),),
        notes=(
            "nerdctl tells only the snapshotters it knows by name which image a layer belongs to, so its own pulls "
            "do not start ours",
            "needs containerd's part as well; images of the snapshotter before are hidden until --undo",
        ),
    )


def _with_snapshotter(text: str) -> str:
    return with_values(text, {("snapshotter",): SNAPSHOTTER})
