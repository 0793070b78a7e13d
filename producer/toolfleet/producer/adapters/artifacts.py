"""What files a trajectory made: requests for them, and the answers, as the predecessors' clients know them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

#: Bytes of a file or an archive that one answer holds at most.
LARGEST = 5_000_000
#: Entries that one listing or archive holds at most.
MOST_ENTRIES = 5_000


class Request(BaseModel):
    """What every request has."""

    model_config = ConfigDict(frozen=True)

    def arguments(self) -> dict[str, Any]:
        """The request as arguments of the fleet's tool."""
        return self.model_dump(exclude_none=True, exclude={"trajectory_id", "slot_id"})


class ReadRequest(Request):
    """Bring one file."""

    path: str = Field(min_length=1)
    encoding: Literal["text", "base64"] = "text"
    max_bytes: int | None = Field(default=None, ge=1, le=LARGEST)
    include_sha256: bool = False
    """The digest is that of the whole file, however much of it is brought."""


class ListRequest(Request):
    """List one folder."""

    path: str = Field(default=".", min_length=1)
    recursive: bool = False
    max_entries: int | None = Field(default=None, ge=1, le=MOST_ENTRIES)


class ArchiveRequest(Request):
    """Bring a folder as one archive."""

    path: str = Field(default=".", min_length=1)
    format: Literal["tar.gz", "tgz"] = "tar.gz"
    max_bytes: int | None = Field(default=None, ge=1, le=LARGEST)
    max_entries: int | None = Field(default=None, ge=1, le=MOST_ENTRIES)


class OfTrajectory(BaseModel):
    """Whose files they are."""

    trajectory_id: str = Field(min_length=1, max_length=1_000)


class TrajectoryReadRequest(ReadRequest, OfTrajectory):
    """Bring one file of a trajectory."""


class TrajectoryListRequest(ListRequest, OfTrajectory):
    """List one folder of a trajectory."""


class TrajectoryArchiveRequest(ArchiveRequest, OfTrajectory):
    """Bring a folder of a trajectory as one archive."""


class ReadAnswer(BaseModel):
    """One file, or the beginning of it."""

    success: bool
    content: str = ""
    error: str = ""
    encoding: Literal["text", "base64"] = "text"
    truncated: bool = False
    bytes: int = 0
    """Bytes of the file that ``content`` holds."""
    file_size: int | None = None
    path: str = ""
    mime: str | None = None
    sha256: str | None = None


class ListEntry(BaseModel):
    """One file or folder."""

    path: str
    is_dir: bool
    size: int
    mtime: float


class ListAnswer(BaseModel):
    """One folder, or the beginning of it."""

    success: bool
    entries: list[ListEntry] = []
    truncated: bool = False
    error: str = ""


class ArchiveAnswer(BaseModel):
    """One archive."""

    success: bool
    content: str = ""
    error: str = ""
    encoding: Literal["base64"] = "base64"
    format: Literal["tar.gz"] = "tar.gz"
    bytes: int = 0
    entry_count: int = 0
