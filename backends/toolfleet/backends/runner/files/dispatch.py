"""A request of this folder as an applet: arguments checked and stages found before the fork."""

import functools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from toolfleet.backends.runner import applets, archive
from toolfleet.backends.runner.arguments import count, flag, number, text
from toolfleet.backends.runner.config import Config
from toolfleet.backends.runner.files import edit, lint, search, transfer, tree
from toolfleet.backends.runner.files.staging import Stages
from toolfleet.backends.runner.spawn import Applet, CannotStart

#: Operations of this folder, and whether content comes along.
KINDS = {
    "get": False, "put": True, "commit": False, "drop": False, "list": False, "pack": False, "search": False,
    "patch": True, "lint": False,
}  # fmt: skip

#: Bytes that one `get` returns at most, and the default.
MAX_PART = 8 * 1024 * 1024
#: Entries and bytes when a request names no number.
DEFAULT_ENTRIES, DEFAULT_ARCHIVE = 100_000, 1024**4
#: Bytes of the instructions of a `patch`.
MAX_PATCH = 32 * 1024 * 1024


class Files:
    """Makes applets for one sandbox."""

    def __init__(self, config: Config, stages: Stages, resolve: Callable[[str], bytes]) -> None:
        self._config = config
        self._stages = stages
        self._resolve = resolve

    def applet(self, kind: str, args: Mapping[str, Any], spool: int | None) -> tuple[Applet, str | None]:
        """The applet, and the stage that it uses up.

        Raises:
            CannotStart: its arguments are wrong.
        """
        if kind in ("put", "commit", "drop", "unpack"):
            return self._of_stage(kind, args, spool)
        if kind == "pack":
            return self._pack(args), None
        if kind == "get":
            return self._get(args), None
        path = self._resolve(text(args, "path"))
        if kind == "list":
            recursive, most = flag(args, "recursive"), count(args, "max_entries", DEFAULT_ENTRIES)
            return self._on_path(
                args, path, lambda out: tree.list_entries(out, path, recursive=recursive, max_entries=most)
            ), None
        if kind == "search":
            query = _query(args)
            return self._on_path(args, path, lambda out: search.search(out, path, query)), None
        if kind == "lint":
            return self._on_path(args, path, lambda _: lint.lint(path)), None
        if spool is None:
            raise CannotStart(f"Cannot start an operation of the kind {kind!r}")
        return self._on_path(args, path, functools.partial(_patch, spool, path)), None

    def _of_stage(self, kind: str, args: Mapping[str, Any], spool: int | None) -> tuple[Applet, str | None]:
        name = text(args, "stage")
        if kind == "put":
            if spool is None:
                raise CannotStart("A part comes without content")
            stage, offset = self._stages.open(name), count(args, "offset", 0)
            return self._guarded(b"", lambda _: transfer.put(spool, stage, offset)), None
        if kind == "drop":
            return lambda _: {}, name
        stage, size = self._stages.find(name), number(args, "size", None)
        sha256 = text(args, "sha256") if args.get("sha256") is not None else None
        if kind == "commit":
            path, mode = self._resolve(text(args, "path")), number(args, "mode", None)
            return self._guarded(path, lambda _: transfer.commit(stage, path, mode, size, sha256)), name
        dest = self._resolve(text(args, "dest"))
        return self._guarded(dest, lambda _: _unpack(stage, dest, size, sha256)), name

    def _pack(self, args: Mapping[str, Any]) -> Applet:
        path = self._resolve(text(args, "path"))
        kind = text(args, "format")
        if kind not in ("tar", "tar.gz"):
            raise CannotStart("The argument 'format' must be 'tar' or 'tar.gz'")
        most = count(args, "max_bytes", DEFAULT_ARCHIVE)
        pack = functools.partial(
            tree.pack,
            path=path,
            kind="tar" if kind == "tar" else "tar.gz",
            max_entries=count(args, "max_entries", DEFAULT_ENTRIES),
        )
        if "stage" not in args:
            least = min(most, self._part)
            return self._on_path(args, path, lambda out: pack(out, max_bytes=least))
        stage = self._stages.open(text(args, "stage"))

        def fill(_: int) -> Mapping[str, Any]:
            os.ftruncate(stage, 0)
            os.lseek(stage, 0, os.SEEK_SET)
            detail = pack(stage, max_bytes=most)
            if "error" in detail:
                os.ftruncate(stage, 0)
            return detail

        return self._on_path(args, path, fill)

    @property
    def _part(self) -> int:
        """Bytes that one answer may print: they pass through the runner's memory, a few copies at a time."""
        return min(MAX_PART, self._config.memory // 8)

    def _get(self, args: Mapping[str, Any]) -> Applet:
        offset, digest = count(args, "offset", 0), flag(args, "digest")
        length = min(count(args, "length", MAX_PART), self._part)
        if "stage" in args:
            stage = self._stages.find(text(args, "stage"))
            return self._guarded(b"", lambda out: transfer.get(out, stage, offset, length, digest=digest))
        path = self._resolve(text(args, "path"))
        return self._on_path(
            args, path, lambda out: transfer.get(out, transfer.opened(path), offset, length, digest=digest)
        )

    def _on_path(self, args: Mapping[str, Any], path: bytes, work: Applet) -> Applet:
        """``work``, refused where ``args`` confine it and links lead it out of the workdir."""
        if not flag(args, "confined"):
            return self._guarded(path, work)
        workdir = self._config.workdir.encode("utf-8", "surrogateescape")

        def confined(out: int) -> Mapping[str, Any]:
            root = os.path.realpath(workdir).rstrip(b"/") + b"/"
            if not (os.path.realpath(path) + b"/").startswith(root):
                return {"error": "Access denied: path outside workspace", "outside": True}
            return work(out)

        return self._guarded(path, confined)

    def _guarded(self, path: bytes, work: Applet) -> Applet:
        return lambda out: applets.guarded(lambda: work(out), path, self._config.disk)


def _query(args: Mapping[str, Any]) -> search.Query:
    asked = text(args, "mode")
    mode = next((mode for mode in search.MODES if mode == asked), None)
    if mode is None:
        raise CannotStart(f"The argument 'mode' must be one of {', '.join(search.MODES)}")
    glob = text(args, "glob") if args.get("glob") is not None else None
    limit, offset, context = count(args, "limit", 50), count(args, "offset", 0), count(args, "context", 0)
    return search.Query(text(args, "pattern"), mode, glob, limit, offset, context)


def _patch(spool: int, path: bytes, _: int) -> Mapping[str, Any]:
    """Carry out the instructions in ``spool``: too long for a header, they come as content."""
    if (size := os.fstat(spool).st_size) > MAX_PATCH:
        return {"error": f"The patch has {size} bytes; at most {MAX_PATCH} are taken at once"}
    asked = json.loads(os.pread(spool, MAX_PATCH, 0))
    if asked["mode"] == "replace":
        return edit.replace(path, asked["old_string"], asked["new_string"], everywhere=asked["replace_all"])
    return edit.patch(path, asked["patch"])


def _unpack(stage: int, dest: bytes, size: int | None, sha256: str | None) -> Mapping[str, Any]:
    if (error := transfer.check(stage, size, sha256)) is not None:
        return {"error": error}
    return archive.unpack(stage, dest)
