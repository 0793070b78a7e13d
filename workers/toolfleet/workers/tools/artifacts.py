"""``artifact_read``, ``artifact_list`` and ``artifact_archive``: what a trajectory has made, in bounded answers."""

import base64
import mimetypes
import os
from typing import Any

from toolfleet.config.tools.artifacts import (
    ARTIFACT_ARCHIVE,
    ARTIFACT_LIST,
    ARTIFACT_READ,
    ArtifactArchiveArguments,
    ArtifactListArguments,
    ArtifactReadArguments,
)
from toolfleet.workers.tools.base import Plan, Seen, Shown, Steps, Tool, one_step
from toolfleet.workers.tools.listing import entries


def _failed(seen: Seen) -> Shown:
    error = seen.outcome.error or "the file operation failed"
    return Shown(error, seen.outcome.exit_code or 1, error, stdout="", detail={"success": False, "error": error})


def _read(arguments: ArtifactReadArguments) -> Steps:
    content, eof, told = b"", False, {}
    sha256 = None
    while not eof and len(content) < arguments.max_bytes:
        args = {"path": arguments.path, "offset": len(content), "length": arguments.max_bytes - len(content)}
        seen = yield Plan("get", {**args, "confined": True, "digest": arguments.include_sha256}, binary=True)
        if seen.outcome.error:
            return _failed(seen)
        told = dict(seen.outcome.detail)
        content, eof, sha256 = content + seen.outcome.stdout, told["eof"], told.get("sha256", sha256)
        if not seen.outcome.stdout:
            break
    if arguments.include_sha256 and sha256 is None:
        seen = yield Plan("get", {"path": arguments.path, "length": 0, "confined": True, "digest": True}, binary=True)
        if seen.outcome.error:
            return _failed(seen)
        sha256 = seen.outcome.detail["sha256"]
    text = content.decode("utf-8", "replace") if arguments.encoding == "text" else base64.b64encode(content).decode()
    detail = {
        "success": True,
        "content": text,
        "encoding": arguments.encoding,
        "truncated": not eof,
        "bytes": len(content),
        "file_size": told["size"],
        "path": arguments.path,
        "mime": mimetypes.guess_type(arguments.path)[0],
    }
    if sha256 is not None:
        detail["sha256"] = sha256
    shown = text if arguments.encoding == "text" else f"{len(content)} bytes"
    return Shown(shown, 0, truncated=not eof, detail=detail, stdout=shown)


def _plan_list(arguments: ArtifactListArguments) -> Plan:
    args = arguments.model_dump(include={"path", "recursive", "max_entries"})
    return Plan("list", {**args, "confined": True}, binary=True)


def _list(arguments: ArtifactListArguments) -> Steps:
    seen = yield _plan_list(arguments)
    if seen.outcome.error:
        return _failed(seen)
    found: list[dict[str, Any]] = []
    for entry in entries(seen.outcome):
        path = os.path.normpath(os.path.join(arguments.path, entry["path"]))
        found.append({**entry, "path": path})
    cut = bool(seen.outcome.detail["truncated"])
    text = "\n".join(f"{entry['path']}/" if entry["is_dir"] else entry["path"] for entry in found)
    detail = {"success": True, "entries": found, "truncated": cut}
    return Shown(text, 0, truncated=cut, detail=detail, stdout=text)


def _plan_archive(arguments: ArtifactArchiveArguments) -> Plan:
    args = arguments.model_dump(include={"path", "max_bytes", "max_entries"})
    return Plan("pack", {**args, "format": "tar.gz", "confined": True}, binary=True)


def _show_archive(seen: Seen) -> Shown:
    outcome = seen.outcome
    if outcome.error:
        return _failed(seen)
    detail = {
        "success": True,
        "content": base64.b64encode(outcome.stdout).decode(),
        "encoding": "base64",
        "format": "tar.gz",
        "bytes": len(outcome.stdout),
        "entry_count": outcome.detail["entries"],
    }
    text = f"{outcome.detail['entries']} entries in {len(outcome.stdout)} bytes"
    return Shown(text, 0, detail=detail, stdout=text)


ARTIFACT_TOOLS: tuple[Tool[Any], ...] = (
    Tool(ARTIFACT_READ, _read),
    Tool(ARTIFACT_LIST, _list),
    one_step(ARTIFACT_ARCHIVE, _plan_archive, _show_archive),
)
