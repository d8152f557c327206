"""A container from the unpacked store, by podman, in place: nothing is copied or imported."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_RUN_SECONDS = 60

_HYBRID = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
"""crun refuses machines that mount cgroups v1 and v2 side by side; in a mount namespace of its own v2 can go."""

_SETTINGS = '[engine]\nlock_type = "file"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
"""Nothing outside the scratch directory: podman's default locks would stay in /dev/shm."""


def run_container(store: Path, reference: str, scratch: Path) -> str:
    """Runs the image's own command. Returns one line: what it printed, or why not and how to get there.

    Args:
        store: the node's overlay storage, used as podman's additional image store.
        scratch: podman's own storage for the container, removed by the caller.
    """
    if not shutil.which("podman"):
        return "podman is not installed: `apt-get install podman crun`, then run the demo again as root"
    if os.geteuid() != 0:
        return "podman is there: run the demo as root to see it start a container from a node's store, in place"
    scratch.mkdir(parents=True, exist_ok=True)
    settings = scratch / "containers.conf"
    settings.write_text(_SETTINGS)
    podman = ["podman", "--root", f"{scratch}/root", "--runroot", f"{scratch}/run", "--storage-driver", "overlay"]
    podman += ["--storage-opt", f"additionalimagestore={store}"]
    run = ["run", "--rm", "--pull=never", "--cgroups=disabled", "--network", "none"]
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HYBRID, "sh"]
    command = [*inside, *podman, *run, *limits, reference]
    environment = {**os.environ, "CONTAINERS_CONF": str(settings)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_RUN_SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"podman did not finish within {_RUN_SECONDS} s"
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return f"podman could not run it: {last}"
    return f"podman printed: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else '(nothing)'}"
