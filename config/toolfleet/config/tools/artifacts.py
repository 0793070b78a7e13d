"""Tools by which environments fetch what a trajectory has made; paths stay within the profile's workdir."""

from typing import Literal

from pydantic import Field

from toolfleet.config.tools.base import Arguments, Definition

#: Bytes and entries of one answer. What is larger is downloaded.
MOST_BYTES, MOST_ENTRIES = 5_000_000, 5_000


class ArtifactReadArguments(Arguments):
    """Arguments of ``artifact_read``."""

    path: str = Field(min_length=1)
    encoding: Literal["text", "base64"] = "text"
    max_bytes: int = Field(default=MOST_BYTES, ge=1, le=MOST_BYTES)
    include_sha256: bool = False
    """The digest is that of the whole file, however much of it is read."""


class ArtifactListArguments(Arguments):
    """Arguments of ``artifact_list``."""

    path: str = Field(default=".", min_length=1)
    recursive: bool = False
    max_entries: int = Field(default=MOST_ENTRIES, ge=1, le=MOST_ENTRIES)


class ArtifactArchiveArguments(Arguments):
    """Arguments of ``artifact_archive``."""

    path: str = Field(default=".", min_length=1)
    format: Literal["tar.gz", "tgz"] = "tar.gz"
    max_bytes: int = Field(default=MOST_BYTES, ge=1, le=MOST_BYTES)
    max_entries: int = Field(default=MOST_ENTRIES, ge=1, le=MOST_ENTRIES)


ARTIFACT_READ = Definition("artifact_read", "Fetch a file of the workspace.", ArtifactReadArguments)
ARTIFACT_LIST = Definition("artifact_list", "List a directory of the workspace.", ArtifactListArguments)
ARTIFACT_ARCHIVE = Definition("artifact_archive", "Fetch a directory as a tar archive.", ArtifactArchiveArguments)

ARTIFACTS = (ARTIFACT_READ, ARTIFACT_LIST, ARTIFACT_ARCHIVE)
