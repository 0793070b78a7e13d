"""``TaskEnvironment``: the interface that agents use to run commands somewhere, over the sandbox of one task."""

import secrets

from toolfleet.config.errors import ToolfleetError
from toolfleet.producer.adapters.rollouts import CleanupReport, Rollouts
from toolfleet.producer.adapters.shapes import Reply, environment
from toolfleet.producer.adapters.shapes.terminal import NO_EXIT_CODE
from toolfleet.producer.adapters.shared import SHARED


class TaskEnvironment:
    """Runs commands in the sandbox of ``task_id``. Blocks; for coroutines there is `Trajectory` itself."""

    def __init__(self, task_id: str, rollouts: Rollouts | None = None) -> None:
        self.task_id = task_id
        self._rollouts = rollouts

    def execute(
        self, command: str, cwd: str = "", *, timeout: float | None = None, stdin_data: str | None = None
    ) -> Reply:
        """Run ``command``: ``output`` and ``returncode``, which is -1 when it did not run.

        Args:
            command: for bash.
            cwd: where it starts; the profile's ``workdir`` when empty.
            timeout: seconds; None takes the profile's default.
            stdin_data: what it reads from its standard input; None gives it none.
        """
        try:
            rollouts = self._rollouts or SHARED.get()
            return rollouts.bridge.wait(self._execute(rollouts, command, cwd, timeout, stdin_data))
        except ToolfleetError as error:
            return {"output": str(error), "returncode": NO_EXIT_CODE}

    def cleanup(self) -> CleanupReport:
        """End the sandbox. Idempotent."""
        rollouts = self._rollouts or SHARED.get()
        return rollouts.bridge.wait(rollouts.release(self.task_id))

    def stop(self) -> None:
        """The same, as some callers name it."""
        self.cleanup()

    async def _execute(
        self, rollouts: Rollouts, command: str, cwd: str, timeout: float | None, stdin_data: str | None
    ) -> Reply:
        if stdin_data is not None:
            path = f"/tmp/.stdin-{secrets.token_hex(8)}"  # noqa: S108 - in the sandbox
            written = await rollouts.call(self.task_id, "write_file", {"path": path, "content": stdin_data})
            if not written.ok:
                return {"output": written.error or "the input could not be written", "returncode": NO_EXIT_CODE}
            # Open, it needs no name any more.
            command = f"exec <{path}; rm -f {path}\n{command}"
        arguments = {"command": command, "workdir": cwd} if cwd else {"command": command}
        return environment(await rollouts.call(self.task_id, "terminal", arguments, timeout=timeout))
