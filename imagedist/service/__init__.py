"""What every HTTP service of ours shares: listening, bounds on clients, health, the access log, a clean stop."""

from imagedist.service.background import beside, kept_up
from imagedist.service.health import STOPPING, add_health_routes, wait_unless_stopping
from imagedist.service.limits import Limits
from imagedist.service.running import (
    ServiceOptions,
    raise_open_files_limit,
    ready_for_systemd,
    recording,
    run_service,
)
from imagedist.service.server import serving
from imagedist.service.signals import stop_signals, until_signalled
from imagedist.service.site_errors import render_site_errors, site_error
from imagedist.service.tls import ServerTls

__all__ = [
    "STOPPING",
    "Limits",
    "ServerTls",
    "ServiceOptions",
    "add_health_routes",
    "beside",
    "kept_up",
    "raise_open_files_limit",
    "ready_for_systemd",
    "recording",
    "render_site_errors",
    "run_service",
    "serving",
    "site_error",
    "stop_signals",
    "until_signalled",
    "wait_unless_stopping",
]
