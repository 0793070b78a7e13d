"""The worker's half of transfers: one request each, with content from and to beside the ledger."""

from typing import Any

from toolfleet.config.tools.transfers import (
    COMMIT_FILE,
    DROP_STAGE,
    GET_PART,
    PACK_TREE,
    PUT_PART,
    UNPACK_TREE,
    CommitArguments,
    DropArguments,
    GetPartArguments,
    PackArguments,
    PutPartArguments,
    unquoted,
)
from toolfleet.workers.tools.base import Plan, Seen, Shown, Tool, one_step


def _told(seen: Seen) -> Shown:
    outcome = seen.outcome
    return Shown(outcome.error or "", outcome.exit_code, outcome.error, detail=dict(outcome.detail))


def _put(arguments: PutPartArguments) -> Plan:
    return Plan("put", {"stage": arguments.stage, "offset": arguments.offset}, content_beside=True)


def _commit(arguments: CommitArguments) -> Plan:
    args = arguments.model_dump(include={"stage", "size", "sha256", "mode"})
    return Plan("commit", {**args, "path": unquoted(arguments.path)})


def _unpack(arguments: CommitArguments) -> Plan:
    args = arguments.model_dump(include={"stage", "size", "sha256"})
    return Plan("unpack", {**args, "dest": unquoted(arguments.path)})


def _get(arguments: GetPartArguments) -> Plan:
    source = {"stage": arguments.stage} if arguments.path is None else {"path": unquoted(arguments.path)}
    args = arguments.model_dump(include={"offset", "length", "digest"})
    return Plan("get", {**source, **args}, binary=True)


def _gotten(seen: Seen) -> Shown:
    outcome = seen.outcome
    content = None if outcome.error else outcome.stdout
    return Shown(outcome.error or "", outcome.exit_code, outcome.error, detail=dict(outcome.detail), content=content)


def _pack(arguments: PackArguments) -> Plan:
    args = arguments.model_dump(include={"stage", "format", "max_bytes"})
    return Plan("pack", {**args, "path": unquoted(arguments.path)})


def _drop(arguments: DropArguments) -> Plan:
    return Plan("drop", {"stage": arguments.stage})


TRANSFER_TOOLS: tuple[Tool[Any], ...] = (
    one_step(PUT_PART, _put, _told),
    one_step(COMMIT_FILE, _commit, _told),
    one_step(UNPACK_TREE, _unpack, _told),
    one_step(GET_PART, _get, _gotten),
    one_step(PACK_TREE, _pack, _told),
    one_step(DROP_STAGE, _drop, _told),
)
