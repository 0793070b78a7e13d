"""What Modal gives and what it does not, for people to read and for the conformance suite to check."""

from collections.abc import Mapping

from toolfleet.backends.base import Capabilities
from toolfleet.backends.modal_cloud.spec import NETWORKS

_OWN_KERNEL = "a sandbox of Modal has a kernel of its own, under which the image's user is as free as on a machine"
_NO_DISK_LIMIT = "Modal limits no disk, which the profile must accept"
_COUNTED = "its kernel limits no processes of root: the runner counts them ten times a second, and ends the crowd"

#: Checks of `toolfleet.backends.conformance` that sandboxes of Modal do not pass, with the reason.
DEVIATIONS: Mapping[str, str] = {
    "commands-have-no-privileges": _OWN_KERNEL,
    "the-runner-survives": "the runner is not PID 1: root of the sandbox can end it, and the sandbox with it",
    "the-disk-limit-holds": _NO_DISK_LIMIT,
    "the-number-of-files-is-limited": _NO_DISK_LIMIT,
    "at-the-limit-of-processes-a-command-is-refused-in-words": _COUNTED,
    "file-operations-have-a-reserve-of-processes": _COUNTED,
    "a-fork-bomb-is-held-and-ended": _COUNTED,
}

CAPABILITIES = Capabilities(
    networks=NETWORKS,
    limits={"memory": "monitor, then Modal's own limit", "pids": "monitor", "cpu": "Modal"},
    attach="anywhere",
    pty=True,
    reset=True,
    notes=(
        "The lifetime of a sandbox (modal.max_lifetime, at most a day) begins at its creation and cannot be prolonged.",
        "Files are on Modal's disk, without a limit of disk_mib.",
        "Memory and processes are looked at ten times a second; beyond that Modal's own memory limit ends the sandbox.",
        "Commands run as the image's user. If that is root they can end the runner, and with it the sandbox.",
        "Domain allowlists (modal.outbound_domains) are matched on TLS host names: port 443 only, and DNS stays open.",
    ),
)
