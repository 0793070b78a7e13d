"""Archives where a sandbox's own root is in the way."""

from typing import TYPE_CHECKING

import pytest

from toolfleet.backends.conformance.archives import TELL, TOLD, TREE, archive, member

if TYPE_CHECKING:
    from toolfleet.backends.conformance.box import Box


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
async def test_a_tree_is_unpacked_into_the_root(box: "Box", mode: str) -> None:
    """Read-only directories of the base in the way are no reason to fail."""
    outcome = await box.unpack("/", archive(*TREE, mode=mode))
    assert (outcome.error, outcome.detail) == (None, {"members": len(TREE)})
    assert (await box.text(TELL, cwd="/")).splitlines() == TOLD


async def test_an_archive_larger_than_the_disk_is_reported(box: "Box") -> None:
    """As lack of space."""
    body = archive(*((member(f"f{n}"), b"\0" * 60_000_000) for n in range(10)), mode="w:gz")
    outcome = await box.unpack("/tmp", body)
    assert outcome.error == "No space left: the sandbox may write 512 MiB"
