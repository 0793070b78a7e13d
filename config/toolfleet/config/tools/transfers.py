"""Tools by which producers bring files in and out, in parts; models are not told of them.

The content of a part lies beside the ledger, under the id of its call: see `toolfleet.config.state.FleetState.part`.
"""

import urllib.parse
from typing import Literal

from pydantic import Field

from toolfleet.config.tools.base import Arguments, Definition


def quoted(path: str) -> str:
    """A path for these tools: JSON has no place for the bytes that are no UTF-8, which Python writes as surrogates."""
    return urllib.parse.quote(path, errors="surrogateescape")


def unquoted(path: str) -> str:
    """The path that `quoted` was given."""
    return urllib.parse.unquote(path, errors="surrogateescape")


class PutPartArguments(Arguments):
    """Arguments of ``put_part``."""

    stage: str = Field(min_length=1, max_length=200)
    """Id of the transfer, as its producer has chosen it."""
    offset: int = Field(ge=0)
    """Where the part begins, in bytes."""


class CommitArguments(Arguments):
    """Arguments of ``commit_file`` and ``unpack_tree``: what is to become of a stage."""

    stage: str = Field(min_length=1, max_length=200)
    path: str = Field(min_length=1)
    """As `quoted` writes it, here and below."""
    size: int = Field(ge=0)
    sha256: str
    mode: int | None = None
    """Permission bits of the file; None keeps those of the file that is replaced."""


class GetPartArguments(Arguments):
    """Arguments of ``get_part``: from a file or, without one, from a stage."""

    path: str | None = None
    stage: str = ""
    offset: int = Field(ge=0)
    length: int = Field(ge=0)
    """Bytes at most; with 0, only what is known of the file."""
    digest: bool = False
    """Tell the SHA-256 of the whole as well, if this part is the whole or ``length`` is 0."""


class PackArguments(Arguments):
    """Arguments of ``pack_tree``."""

    path: str = Field(min_length=1)
    stage: str = Field(min_length=1, max_length=200)
    format: Literal["tar", "tar.gz"] = "tar"
    max_bytes: int = Field(ge=0)


class DropArguments(Arguments):
    """Arguments of ``drop_stage``."""

    stage: str = Field(min_length=1, max_length=200)


PUT_PART = Definition("put_part", "Take a part of a transfer.", PutPartArguments, hidden=True)
COMMIT_FILE = Definition("commit_file", "Make a file of a transfer.", CommitArguments, hidden=True)
UNPACK_TREE = Definition("unpack_tree", "Unpack a transfer into a directory.", CommitArguments, hidden=True)
GET_PART = Definition("get_part", "Give a part of a file or transfer.", GetPartArguments, hidden=True)
PACK_TREE = Definition("pack_tree", "Make a transfer of a directory.", PackArguments, hidden=True)
DROP_STAGE = Definition("drop_stage", "Forget a transfer.", DropArguments, hidden=True)

TRANSFERS = (PUT_PART, COMMIT_FILE, UNPACK_TREE, GET_PART, PACK_TREE, DROP_STAGE)
