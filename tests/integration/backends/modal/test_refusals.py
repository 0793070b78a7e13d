"""What Modal cannot do, and whom it does not let in: told with the remedy, before anything is started."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from integration.backends.modal.rig import ME, Create, profile
from standins.modal.client import StandIn

from toolfleet.backends import registry
from toolfleet.backends.modal import ModalBackend
from toolfleet.config.errors import BackendUnavailable, SpecRefused


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"image": None}, "needs an image"),
        ({"rootfs": "/srv/root"}, "no rootfs"),
        ({"network": "host"}, "no network 'host'"),
        ({"storage": "memory"}, "unlimited_disk = true"),
        ({"modal": {"unlimited_disk": False}}, "unlimited_disk = true"),
        ({"modal": {"outbound_domains": ["pypi.org"]}}, "needs network = 'bridge'"),
        ({"image": "im-123", "modal": {"registry_secret": "s"}}, "registry_secret"),
        ({"image": "im-unknown"}, "Create it in Modal, or correct the profile"),
        ({"modal": {"secrets": ["unknown"]}}, "Create it in Modal, or correct the profile"),
        ({"modal": {"volumes": {"/data": "unknown"}}}, "Create it in Modal, or correct the profile"),
        ({"env": {"A": "x" * 200_000}}, "environment of the profile"),
    ],
)
async def test_what_modal_cannot_do_is_refused(create: Create, fields: dict[str, Any], why: str) -> None:
    """With the remedy, and before anything is started."""
    with pytest.raises(SpecRefused, match=re.escape(why)):
        await create(**fields)


async def test_without_the_sdk_or_a_token_the_probe_says_what_to_do(
    modal_cloud: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MODAL_TOKEN_ID")
    with pytest.raises(BackendUnavailable, match="modal token new"):
        await ModalBackend(tmp_path).probe()
    monkeypatch.setitem(sys.modules, "modal", None)
    for attempt in (ModalBackend(tmp_path).probe(), ModalBackend(tmp_path).create(profile(), ME)):
        with pytest.raises(BackendUnavailable, match=r"pip install 'toolfleet\[modal\]'"):
            await attempt


async def test_a_worker_whose_interpreter_modal_cannot_run_is_told_so(
    backend: ModalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner brings the worker's own."""
    monkeypatch.setattr("toolfleet.backends.modal._MACHINE", "another")
    with pytest.raises(BackendUnavailable, match="run on another and need a worker of that kind"):
        await backend.probe()


async def test_a_token_that_is_not_accepted_is_no_reason_to_try_again(
    backend: ModalBackend, modal_cloud: StandIn
) -> None:
    modal_cloud.fault("AppGetOrCreate", status="UNAUTHENTICATED", count=2)
    with pytest.raises(BackendUnavailable, match="modal token info"):
        await backend.probe()
    with pytest.raises(BackendUnavailable, match="modal token info"):
        await backend.create(profile(), ME)


def test_the_sdk_is_imported_only_when_it_is_used() -> None:
    """It takes a second, and most workers do without."""
    code = "import sys, toolfleet.backends.modal as m; sys.exit('modal' in sys.modules or 'grpclib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_the_registry_knows_the_backend_and_its_abilities(modal_cloud: StandIn, tmp_path: Path) -> None:
    backend = registry.load("modal", tmp_path)
    capabilities = await backend.probe()
    assert (capabilities.attach, capabilities.snapshot) == ("anywhere", True)
    assert capabilities.networks == {"none", "bridge"}
    assert "disk" not in capabilities.limits
    await backend.shutdown()
