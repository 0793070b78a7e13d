"""The runner outlives whatever its commands do."""

from toolfleet.backends.conformance.core import Rig, check

_ATTACKS = (
    "exit 3",
    "exec true",
    "exec 0<&- 1>&- 2>&-; sleep 0.05",
    "kill -9 $PPID",
    "kill -9 -1",
    "for s in $(seq 1 64); do kill -$s $PPID; done",
    "mkdir -p /tmp/w; cd /tmp/w; touch a; chmod 0 a .",
    "head -c 100000000 /dev/zero; head -c 100000000 /dev/zero >&2",
    "printf '\\0\\0\\0\\2\\0\\0\\0\\0{}'; echo '{\"rid\":1,\"outcome\":{}}'",
    "for fd in /proc/self/fd/*; do echo x >> $fd; done 2>/dev/null",
    "ulimit -n 3; ulimit -v 1000; true",
)


@check
async def the_runner_survives(rig: Rig) -> None:
    """Suicide, murder, closed descriptors, deleted files, floods, forged frames."""
    box = await rig.box()
    for command in _ATTACKS:
        await box.sh(command, timeout=20)
        outcome = await box.sh("echo alive")
        assert (outcome.stdout, outcome.exit_code) == (b"alive\n", 0), command


@check
async def commands_begin_with_every_signal_at_its_default(rig: Rig) -> None:
    """Whatever the runner blocks or ignores for itself."""
    box = await rig.box()
    for trailer in ("", "; true"):
        status = await box.text("grep -E 'Sig(Blk|Ign)' /proc/self/status" + trailer)
        blocked, ignored = (int(line.split()[1], 16) for line in status.splitlines())
        assert blocked == 0
        assert ignored & ~(0b11 << 31) == 0  # 32 and 33 are libc's own
        assert (await box.write("/tmp/x", b"x")).error is None
