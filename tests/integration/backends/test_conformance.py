"""Every backend keeps what all of them promise; where one does not, it says so and why."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from host_processes import processes_of
from plain_backend import PlainBackend, user_of

from toolfleet.backends import registry
from toolfleet.backends.base import Owner, SandboxRef
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.conformance import CHECKS, Check, Finding, Rig, examine
from toolfleet.config.errors import SandboxLost, SpecRefused
from toolfleet.config.profile import Profile

OWNER = Owner("conformance", "worker-1")
DEBIAN = "toolfleet-test:debian"
PROFILES: dict[str, dict[str, Any]] = {
    "bubblewrap": {},
    "plain": {"backend": PlainBackend.name},
    "docker-socket": {"backend": "docker", "image": DEBIAN},
    "docker-relay": {
        "backend": "docker",
        "image": DEBIAN,
        "storage": "disk",
        "docker": {"transport": "relay", "user": "root", "unlimited_disk": True},
    },
    "modal": {
        "backend": "modal",
        "image": "debian:bookworm-slim",
        "storage": "disk",
        "modal": {"unlimited_disk": True},
    },
    "morph": {
        "backend": "morph",
        "image": "snapshot_base",
        "network": "bridge",
        "storage": "disk",
        "disk_mib": 4096,
    },
}
#: What a profile gives up on purpose.
WITHOUT = {
    "docker-relay": {"the-disk-limit-holds", "the-number-of-files-is-limited"},
    # The stand-in's machines have no cgroups, and where the user is counted, the machine's own processes count as well.
    "morph": {"at-the-limit-of-processes-a-command-is-refused-in-words"},
}


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Each of them, where this machine has what its backend needs."""
    profile = Profile.model_validate(PROFILES[request.param])
    if profile.backend == "docker":
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("docker_url"))
    elif profile.backend == "modal":
        request.getfixturevalue("modal_cloud")
    elif profile.backend == "morph":
        for name, value in request.getfixturevalue("morph_cloud").environment.items():
            monkeypatch.setenv(name, value)
    elif profile.backend == "bubblewrap":
        request.getfixturevalue("_bwrap")
    else:
        request.getfixturevalue("_plain")
    return profile


@pytest.fixture
async def rig(profile: Profile) -> AsyncIterator[Rig]:
    """A backend with an empty runtime directory, which is empty again at the end; no process is left either."""
    runtime_dir = Path(tempfile.mkdtemp(prefix="toolfleet-"))
    backend = registry.load(profile.backend, runtime_dir)
    made = Rig(backend, profile, OWNER)
    yield made
    users = {user_of(box.sandbox.ref) for box in made._boxes} if isinstance(backend, PlainBackend) else set()
    try:
        await made.close()
        await backend.shutdown()
        left = [path for name in ("sandboxes", "docker", "plain") for path in (runtime_dir / name).glob("*")]
    finally:
        shutil.rmtree(runtime_dir)
    assert left == []
    assert processes_of(users) == {}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
async def test_it_keeps_the_promise(rig: Rig, check: Check, request: pytest.FixtureRequest) -> None:
    """Or fails exactly where it says that it does."""
    name = request.node.callspec.params["profile"]
    if check.name in WITHOUT.get(name, ()):
        pytest.skip("the profile does without this limit")
    if (reason := rig.backend.deviations.get(check.name)) is None:
        await check.run(rig)
        return
    with pytest.raises((AssertionError, SandboxLost, SpecRefused)):
        await check.run(rig)
    pytest.xfail(reason)


class Forgetful(BubblewrapBackend):
    """Knows nothing of what it has made, and admits to one fault."""

    deviations: ClassVar[dict[str, str]] = {"the-runner-survives": "it is only an example"}

    async def list(self, owner: Owner | None = None) -> "list[SandboxRef]":
        """Nothing."""
        return []


@pytest.mark.usefixtures("_bwrap")
async def test_an_examination_tells_good_from_bad(tmp_path: Path) -> None:
    """Each check's verdict, with the reason."""
    names = {"sandboxes-are-listed-by-owner", "commands-run-in-bash-without-input", "the-runner-survives"}

    async def verdicts(backend: BubblewrapBackend) -> dict[str, Finding]:
        return {found.check.name: found async for found in examine(backend, Profile(), OWNER, names)}

    good = await verdicts(BubblewrapBackend(tmp_path))
    assert {found.verdict for found in good.values()} == {"holds"}
    bad = await verdicts(Forgetful(tmp_path))
    assert bad["sandboxes-are-listed-by-owner"].verdict == "fails"
    assert "AssertionError" in bad["sandboxes-are-listed-by-owner"].words
    assert bad["commands-run-in-bash-without-input"].verdict == "holds"
    assert (bad["the-runner-survives"].verdict, bad["the-runner-survives"].words) == (
        "deviates",
        "it is only an example",
    )


def test_deviations_are_of_checks_that_exist() -> None:
    """A check that was renamed takes its deviations along."""
    for name in registry.BACKENDS:
        assert set(registry.load(name, Path("/nowhere")).deviations) <= set(CHECKS)
