"""A saved writable layer (see `toolfleet.backends.local.snapshots`) becomes the layer of a new sandbox.

It happens before any command runs and before the layer is part of a root, with the rights of the sandbox's own root.
"""

import os
import tarfile

_ATTRIBUTE = "SCHILY.xattr."


def restore(archive: int, target: str) -> None:
    """Extract everything in ``archive``, whiteouts and attributes of an overlay included, into the empty ``target``.

    Raises:
        OSError, tarfile.TarError: it is not whole, or does not fit.
    """
    # Trusted: tar has walked real directories from outside, so no name leads through a link.
    tarfile.TarFile.extraction_filter = staticmethod(lambda member, _: member)
    with (
        os.fdopen(os.dup(archive), "rb") as file,
        tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape", errorlevel=2) as tar,
    ):
        tar.extractall(target, numeric_owner=True)  # noqa: S202 - see above
        for member in tar:
            for name, value in member.pax_headers.items():
                if name.startswith(_ATTRIBUTE):
                    path = os.path.join(target, member.name)
                    data = value.encode("utf-8", "surrogateescape")
                    os.setxattr(path, name.removeprefix(_ATTRIBUTE), data, follow_symlinks=False)
