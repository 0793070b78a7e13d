"""Which tests may run beside which, for pytest-xdist: those of one group follow one another in one process."""

import pytest

#: Tests that starve a fleet, stop it or count its seconds, which on a busy machine would see what is not there; and one
#: that looks for what stand-ins have left on the machine, whoever started them.
ALONE = (
    "tests/chaos/",
    "tests/integration/backends/test_shells.py",
    "tests/integration/standins/test_morph.py",
    "tests/integration/worker/test_background_takeover.py",
    "tests/integration/worker/test_redis_faults.py",
    "tests/integration/worker/test_sentinel.py",
    "tests/integration/worker/test_takeover.py",
)
#: What is expensive to bring up, by the fixture that does so: one is enough.
SHARED = {"docker_url": "docker", "modal_server": "modal", "morph_cloud": "morph"}


def arrange(item: pytest.Item) -> None:
    """Give a test its group, and the mark ``alone`` where it needs the machine to itself."""
    path = item.nodeid.partition("::")[0]
    if path.startswith(ALONE):
        item.add_marker(pytest.mark.alone)
    item.add_marker(pytest.mark.xdist_group(_group(item, path)))


def _group(item: pytest.Item, path: str) -> str:
    fixtures = getattr(item, "fixturenames", ())
    shared = next((group for fixture, group in SHARED.items() if fixture in fixtures), None)
    if shared is not None:
        return shared
    if "/compose/" in path:
        return SHARED["docker_url"]
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "check" in callspec.params:  # one file for all backends, and the longest of all
        backend = str(callspec.params["profile"])
        return backend.partition("-")[0]
    return path
