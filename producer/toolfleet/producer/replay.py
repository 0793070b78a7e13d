"""Replays recorded trajectories: the engine of ``toolfleet run``."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolfleet.config.contract import Setup, Status, ToolCall, ToolResult, ended, is_identifier, new_id
from toolfleet.config.errors import FleetError, InvalidCall
from toolfleet.producer.fleet import Fleet

#: Longest stretch of a user's own text that an error message repeats.
QUOTED = 200


class RecordedSetup(BaseModel):
    """``setup`` of a recorded trajectory; ``archive`` is a path beside the file."""

    archive: str
    dest: str = "/"


class RecordedCall(BaseModel):
    """One recorded call; ``expect`` holds what it gave when it was recorded."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1, max_length=200)
    arguments: dict[str, Any] | str = {}
    timeout: float | None = None
    expect: dict[str, Any] | None = None


class RecordedTrajectory(BaseModel):
    """One line of the input."""

    model_config = ConfigDict(extra="ignore")

    trajectory_id: str = Field(min_length=1)
    setup: RecordedSetup | None = None
    calls: list[RecordedCall]


@dataclass(frozen=True)
class Line:
    """A line of the input that can run, or the reason why it cannot."""

    number: int
    trajectory: RecordedTrajectory | None
    problem: str = ""


@dataclass(frozen=True)
class Played:
    """One call that was replayed."""

    trajectory_id: str
    call_index: int
    call: RecordedCall
    result: ToolResult

    def as_json(self) -> str:
        """The output line: where the call stood, then the fields of its result."""
        result = self.result.model_dump(mode="json")
        del result["trajectory_id"]
        return json.dumps({"trajectory_id": self.trajectory_id, "call_index": self.call_index, **result})


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a JSONL file, each parsed or with its problem in words; empty lines are passed over."""
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if raw.strip():
                yield _parse(number, raw, path.parent)


def _parse(number: int, raw: bytes, folder: Path) -> Line:
    try:
        trajectory = RecordedTrajectory.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return Line(number, None, f"{where + ': ' if where else ''}{first['msg']}"[:QUOTED])
    if trajectory.setup and not (folder / trajectory.setup.archive).is_file():
        return Line(number, None, f"setup.archive: no file {folder / trajectory.setup.archive}")
    return Line(number, trajectory)


@dataclass
class Replay:
    """Plays trajectories, so many at once, and reports every call as it ends."""

    fleet: Fleet
    source: Path
    profile: str
    concurrency: int
    on_played: Callable[[Played], None]
    on_problem: Callable[[Line], None]
    _run: str = field(default_factory=lambda: new_id("run")[:8])

    async def play(self) -> None:
        """All lines of the source."""
        lines = read_lines(self.source)
        players = [asyncio.create_task(self._player(lines)) for _ in range(self.concurrency)]
        try:
            await asyncio.gather(*players)
        finally:
            # The first error ends the replay; the other players close their trajectories on the way out.
            for player in players:
                player.cancel()
            await asyncio.gather(*players, return_exceptions=True)

    async def _player(self, lines: Iterator[Line]) -> None:
        # One iterator shared by all players: reading stays as far ahead as there are players, and no further.
        for line in lines:
            if line.trajectory is None:
                self.on_problem(line)
            else:
                await self._play_one(line.number, line.trajectory)

    async def _play_one(self, number: int, recorded: RecordedTrajectory) -> None:
        index = 0
        async for result in self._results(number, recorded):
            self.on_played(Played(recorded.trajectory_id, index, recorded.calls[index], result))
            index += 1

    async def _results(self, number: int, recorded: RecordedTrajectory) -> AsyncIterator[ToolResult]:
        # The same file may be replayed again, or hold an id twice; a trajectory's id is used once in a fleet.
        name = recorded.trajectory_id if is_identifier(recorded.trajectory_id) else "trajectory"
        ident = f"{name[:150]}~{self._run}.{number}"
        setup = await self._setup(recorded)
        async with self.fleet.trajectory(ident, profile=self.profile, setup=setup) as trajectory:
            for call in recorded.calls:
                try:
                    yield await trajectory.call(call.name, call.arguments, timeout=call.timeout)
                except InvalidCall as error:
                    yield _not_run(ident, call, Status.REJECTED, error)
                except FleetError as error:
                    yield _not_run(ident, call, Status.FAILED, error)

    async def _setup(self, recorded: RecordedTrajectory) -> list[Setup]:
        if recorded.setup is None:
            return []
        content = (self.source.parent / recorded.setup.archive).read_bytes()
        return [await self.fleet.archive(content, recorded.setup.dest)]


def _not_run(ident: str, call: RecordedCall, status: Status, error: Exception) -> ToolResult:
    """A result for a call that never reached the fleet, so that every call has one."""
    stand_in = ToolCall(call_id=new_id("call"), trajectory_id=ident, name=call.name)
    return ended(stand_in, status, executed="no", error=f"{type(error).__name__}: {error}")


def write_to(out: TextIO) -> Callable[[Played], None]:
    """Writes each played call as a line of its own, at once."""

    def write(played: Played) -> None:
        out.write(played.as_json() + "\n")
        out.flush()

    return write
