"""Replies of the tools for files."""

from collections.abc import Mapping
from typing import Any

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.producer.adapters.shapes.common import Reply, degraded, kept

#: How a line of a file is shown: its number in six columns, and at most so many of its characters.
_LONGEST_LINE = 2_000


def read_file(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """``content`` with numbered lines, and what is known of the file; or ``error``, and files of similar names."""
    if wrong := _not_done(result):
        return {**wrong, **kept(result.detail, "similar_files", "file_size", "is_binary", "is_image")}
    known = kept(result.detail, "total_lines", "file_size", "hint", "is_binary", "is_image", "similar_files")
    content = result.detail.get("content")
    if content is None:
        content = _numbered(result.stdout, int(arguments.get("offset") or 1))
    return {"content": content, "truncated": result.truncated, **known}


def write_file(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """``bytes_written`` and ``dirs_created``."""
    if wrong := _not_done(result):
        return wrong
    written = len(str(arguments.get("content", "")).encode("utf-8", "surrogatepass"))
    reply = {"bytes_written": result.detail.get("bytes_written", written)}
    reply["dirs_created"] = result.detail.get("dirs_created", False)
    return {**reply, **kept(result.detail, "warning", "verified", "sha256", "lint")}


def patch(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """``success`` and ``diff``, and the files that changed."""
    wrong = _not_done(result)
    said = ("diff", "files_modified", "files_created", "files_deleted", "lint", "no_change", "note")
    return {"success": not wrong, **kept(result.detail, *said), **wrong}


def search_files(result: ToolResult, arguments: Mapping[str, Any]) -> Reply:
    """``total_count``, and ``matches``, ``files`` or ``counts``."""
    if wrong := _not_done(result):
        return wrong
    reply = {key: value for key, value in result.detail.items() if value is not None}
    reply.setdefault("total_count", 0)
    reply.setdefault("truncated", result.truncated)
    return reply


def _not_done(result: ToolResult) -> Reply:
    """Why the tool did not do its work; empty when it did."""
    if result.fault is Fault.INFRASTRUCTURE:
        return degraded(result)
    if result.status is not Status.OK or result.error:
        return {"error": result.error or f"the call was {result.status.value}"}
    return {}


def _numbered(text: str, first: int) -> str:
    lines = text.splitlines()
    return "\n".join(f"{number:6d}|{line[:_LONGEST_LINE]}" for number, line in enumerate(lines, first))
