"""``read_file`` and ``write_file``: text files in the trajectory's sandbox, without a shell in between."""

from toolfleet.config.tools.files import READ_FILE, WRITE_FILE, ReadFileArguments, WriteFileArguments
from toolfleet.workers.tools.base import Plan, Seen, Shown, one_step

#: Most bytes that one `read_file` brings back; the rest is read by offset.
READ_LIMIT = 200_000


def _plan_read(arguments: ReadFileArguments) -> Plan:
    args = {"path": arguments.path, "offset": arguments.offset, "limit": arguments.limit, "max_bytes": READ_LIMIT}
    return Plan("read", args)


def _show_read(seen: Seen) -> Shown:
    outcome = seen.outcome
    if outcome.error:
        return Shown(outcome.error, outcome.exit_code or 1, outcome.error)
    following = outcome.detail.get("next_offset")
    if following is None:
        return Shown(seen.stdout, outcome.exit_code)
    size = outcome.detail.get("size")
    hint = f"\n[the file goes on: {size} bytes in all; read on with offset={following}]"
    return Shown(seen.stdout + hint, outcome.exit_code, truncated=True)


def _plan_write(arguments: WriteFileArguments) -> Plan:
    return Plan("write", {"path": arguments.path}, arguments.content.encode("utf-8", "surrogateescape"))


def _show_write(seen: Seen) -> Shown:
    outcome = seen.outcome
    if outcome.error:
        return Shown(outcome.error, outcome.exit_code or 1, outcome.error)
    return Shown(f"wrote {outcome.detail.get('bytes')} bytes", outcome.exit_code)


READ_FILE_TOOL = one_step(READ_FILE, _plan_read, _show_read)
WRITE_FILE_TOOL = one_step(WRITE_FILE, _plan_write, _show_write)
