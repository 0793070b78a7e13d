"""``write_file``, ``patch`` and ``search_files``: text files in the trajectory's sandbox, without a shell."""

import hashlib
import json
from collections.abc import Generator
from typing import Any

from toolfleet.config.tools.files import (
    PATCH,
    SEARCH_FILES,
    WRITE_FILE,
    PatchArguments,
    SearchFilesArguments,
    WriteFileArguments,
)
from toolfleet.workers.tools.base import Plan, Seen, Shown, Steps, Tool
from toolfleet.workers.tools.listing import entries

#: Names that the runner can parse, and files of one patch that are looked at.
PARSED = (".py", ".json", ".toml")
LINTED = 10


def _failed(seen: Seen) -> Shown:
    error = seen.outcome.error or "the file operation failed"
    return Shown(error, seen.outcome.exit_code or 1, error, stdout="")


def _lint(path: str) -> Generator[Plan, Seen, dict[str, Any]]:
    """Whether a file that was written can be parsed; a parser that breaks says nothing about the file."""
    if not path.endswith(PARSED):
        return {"status": "skipped", "message": "No parser for files of this kind"}
    outcome = (yield Plan("lint", {"path": path})).outcome
    if outcome.error:
        return {"status": "skipped", "message": outcome.error}
    return dict(outcome.detail)


def _complaint(path: str, lint: dict[str, Any]) -> str:
    return f"\n[{path} cannot be parsed: {lint['output']}]" if lint["status"] == "error" else ""


def _write(arguments: WriteFileArguments) -> Steps:
    content = arguments.content.encode("utf-8", "surrogateescape")
    seen = yield Plan("write", {"path": arguments.path}, content)
    if seen.outcome.error:
        return _failed(seen)
    told = seen.outcome.detail
    sha256 = hashlib.sha256(content).hexdigest()
    lint = yield from _lint(arguments.path)
    detail = {
        "bytes_written": told["bytes"],
        "dirs_created": told["dirs_created"],
        "verified": told["sha256"] == sha256,
        "sha256": told["sha256"],
        "lint": lint,
    }
    return Shown(f"wrote {told['bytes']} bytes{_complaint(arguments.path, lint)}", 0, detail=detail)


def _patch(arguments: PatchArguments) -> Steps:
    asked = arguments.model_dump(include={"mode", "old_string", "new_string", "replace_all", "patch"})
    path = arguments.path if arguments.mode == "replace" and arguments.path else "."
    seen = yield Plan("patch", {"path": path}, json.dumps(asked).encode("ascii"))
    if seen.outcome.error:
        return _failed(seen)
    told = dict(seen.outcome.detail)
    lints = {}
    for name in (told["files_modified"] + told["files_created"])[:LINTED]:
        lints[name] = yield from _lint(name)
    complaints = "".join(_complaint(name, lint) for name, lint in lints.items())
    detail = {"success": True, **{k: v for k, v in told.items() if k not in ("reading", "sha256")}}
    detail["lint"] = _joint(lints)
    if told["no_change"]:
        detail["note"] = "the file had this content already; nothing was written"
        return Shown(detail["note"], 0, detail=detail)
    if told["reading"] not in ("", "exact"):
        detail["note"] = f"old_string was found by ignoring white space ({told['reading']}); check the diff"
    note = f"\n[{detail['note']}]" if "note" in detail else ""
    return Shown(f"{told['diff']}{note}{complaints}", 0, detail=detail)


def _joint(lints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One answer for all files of a patch."""
    if len(lints) == 1:
        return next(iter(lints.values()))
    found = {lint["status"] for lint in lints.values()}
    status = next((s for s in ("error", "ok") if s in found), "skipped")
    return {"status": status, "files": lints}


def _plan_search(arguments: SearchFilesArguments) -> Plan:
    args = {
        "path": arguments.path,
        "pattern": arguments.pattern,
        "mode": "names" if arguments.target == "files" else arguments.output_mode,
        "glob": arguments.file_glob,
        "limit": arguments.limit,
        "offset": arguments.offset,
        "context": arguments.context,
    }
    return Plan("search", args, binary=True)


def _search(arguments: SearchFilesArguments) -> Steps:
    seen = yield _plan_search(arguments)
    if seen.outcome.error:
        return _failed(seen)
    told, found = seen.outcome.detail, entries(seen.outcome)
    detail: dict[str, Any] = {"total_count": told["total_count"], "truncated": told["truncated"]}
    if told["total_count_is_lower_bound"]:
        detail["total_count_is_lower_bound"] = True
    if told["searched_in_part"]:
        detail["searched_in_part"] = told["searched_in_part"]
    lines: list[str] = []
    for one in found:
        if "line" in one:
            detail.setdefault("matches", []).append(one)
            lines += _match(one)
        elif "count" in one:
            detail.setdefault("counts", {})[one["path"]] = one["count"]
            lines.append(f"{one['path']}: {one['count']}")
        else:
            detail.setdefault("files", []).append(one["path"])
            lines.append(one["path"])
    text = "\n".join(lines)
    following = arguments.offset + len(found)
    more = f"\n[{told['total_count']} results in all; use offset={following} to read on]" if told["truncated"] else ""
    return Shown((text or "No results") + more, 0, truncated=told["truncated"], detail=detail, stdout=text)


def _match(match: dict[str, Any]) -> list[str]:
    """A match as grep shows it, with the lines around it."""
    path, number = match["path"], match["line"]
    before, after = match.get("before", []), match.get("after", [])
    shown = [f"{path}-{number - len(before) + n}-{line}" for n, line in enumerate(before)]
    shown.append(f"{path}:{number}:{match['content']}")
    shown += [f"{path}-{number + n}-{line}" for n, line in enumerate(after, 1)]
    return ["--", *shown] if before or after else shown


WRITE_FILE_TOOL = Tool(WRITE_FILE, _write)
PATCH_TOOL = Tool(PATCH, _patch)
SEARCH_FILES_TOOL = Tool(SEARCH_FILES, _search)
