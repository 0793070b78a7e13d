"""What every backend owes, as checks that run against a live one.

``examine`` runs them all; the tests run each as a test of its own. A check makes its sandboxes from a profile that the
caller gives, whose image has bash, coreutils, procps, util-linux and perl, and whose sandboxes may write to ``/tmp``.
Where a backend is known to fall short, its ``deviations`` say which check and why.
"""

from toolfleet.backends.conformance import (
    archives,
    background,
    execution,
    files,
    identity,
    isolation,
    lifecycle,
    limits,
    shells,
    survival,
    transfers,
    trees,
)
from toolfleet.backends.conformance.core import CHECKS, Check, Finding, Rig, examine

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Rig",
    "archives",
    "background",
    "examine",
    "execution",
    "files",
    "identity",
    "isolation",
    "lifecycle",
    "limits",
    "shells",
    "survival",
    "transfers",
    "trees",
]
