"""What failures of bubblewrap are explained with."""

import pytest

from toolfleet.backends.local import diagnose


@pytest.mark.parametrize(
    ("words", "advice", "hopeless"),
    [
        ("bwrap: No permissions to create new namespace, likely because ...", "seccomp=unconfined", True),
        ("bwrap: Creating new namespace failed: Operation not permitted", "seccomp=unconfined", True),
        ("bwrap: setting up uid map: Permission denied", "AppArmor", True),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined", True),
        ("bwrap: Unknown option --x", "too old", True),
        ("bwrap: Creating new namespace failed: Resource temporarily unavailable", "out of processes", False),
        ("something else", "something else", False),
    ],
)
def test_known_failures_come_with_a_remedy(words: str, advice: str, hopeless: bool) -> None:
    """And only those that another try cannot cure are called hopeless."""
    assert advice in diagnose.explain(words)
    assert words in diagnose.explain(words)
    assert diagnose.hopeless(words) is hopeless
