"""Tools for text files in the trajectory's sandbox: read, write, patch, search."""

from typing import Literal, Self

from pydantic import Field, model_validator

from toolfleet.config.tools.base import Arguments, Definition


class ReadFileArguments(Arguments):
    """Arguments of ``read_file``."""

    path: str = Field(min_length=1)
    offset: int = Field(default=1, ge=1, description="First line, from 1.")
    limit: int = Field(default=500, ge=1, le=2000, description="Lines at most.")


class WriteFileArguments(Arguments):
    """Arguments of ``write_file``."""

    path: str = Field(min_length=1)
    content: str


class PatchArguments(Arguments):
    """Arguments of ``patch``."""

    mode: Literal["replace", "patch"] = Field(
        default="replace", description="replace: one text in one file. patch: changes of several files in V4A format."
    )
    path: str | None = Field(default=None, min_length=1, description="The file, for mode replace.")
    old_string: str | None = Field(default=None, description="Text to be replaced, with enough around it to be unique.")
    new_string: str | None = Field(default=None, description="What is to stand there; empty to delete.")
    replace_all: bool = Field(default=False, description="Replace every occurrence.")
    patch: str | None = Field(
        default=None, description="For mode patch: '*** Begin Patch', '*** Update File: PATH', hunks, '*** End Patch'."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        wanted = ("patch",) if self.mode == "patch" else ("path", "old_string", "new_string")
        missing = [name for name in wanted if getattr(self, name) is None]
        if missing:
            raise ValueError(f"mode {self.mode!r} needs {', '.join(missing)}")
        return self


class SearchFilesArguments(Arguments):
    """Arguments of ``search_files``."""

    pattern: str = Field(min_length=1, description="A regular expression, or a glob such as *.py for target files.")
    target: Literal["content", "files"] = Field(default="content", description="Search in files, or for file names.")
    path: str = Field(default=".", min_length=1, description="A directory or a file.")
    file_glob: str | None = Field(default=None, min_length=1, description="Only files whose name matches, e.g. *.py.")
    limit: int = Field(default=50, ge=1, le=500)
    offset: int = Field(default=0, ge=0, description="Results to pass over.")
    output_mode: Literal["content", "files_only", "count"] = "content"
    context: int = Field(default=0, ge=0, le=20, description="Lines to show before and after each match.")


READ_FILE = Definition(
    name="read_file",
    description=(
        "Read a text file. Lines come as 'NUMBER|LINE'; of a long file read on with offset. "
        "Use this instead of cat, head or tail."
    ),
    arguments=ReadFileArguments,
)
WRITE_FILE = Definition(
    name="write_file",
    description=(
        "Write a whole text file, replacing it if it exists; missing directories are made. "
        "To change a part of a file use patch."
    ),
    arguments=WriteFileArguments,
)
PATCH = Definition(
    name="patch",
    description=(
        "Change text files. With mode 'replace', put new_string in the place of old_string, which must occur exactly "
        "once unless replace_all is set. With mode 'patch', apply a V4A patch to several files: all or nothing. "
        "Returns a diff."
    ),
    arguments=PatchArguments,
)
SEARCH_FILES = Definition(
    name="search_files",
    description=(
        "Search for a regular expression in files, or for files by name. Hidden directories and binary files are "
        "passed over. Use this instead of grep or find."
    ),
    arguments=SearchFilesArguments,
)

FILES = (READ_FILE, WRITE_FILE, PATCH, SEARCH_FILES)
