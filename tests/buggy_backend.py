"""A backend with bugs of every kind: its first start, a command that says "trip", and whatever tidies up."""

from toolfleet.backends.base import Outcome, Owner, Request
from toolfleet.backends.bubblewrap import BubblewrapBackend
from toolfleet.backends.sandbox import RunnerSandbox
from toolfleet.config.profile import Profile


class BuggyBackend(BubblewrapBackend):
    """Bubblewrap, and errors that nobody has thought of."""

    _started = False

    async def create(self, profile: Profile, owner: Owner, origin: str | None = None) -> RunnerSandbox:
        """Break once, then start sandboxes that trip."""
        if not self._started:
            self._started = True
            raise KeyError("a bug in a start")
        sandbox = await super().create(profile, owner, origin)
        run = sandbox.run

        async def trip(request: Request) -> Outcome:
            if "trip" in str(request.args):
                raise RuntimeError("a bug in a call")
            return await run(request)

        sandbox.run = trip  # type: ignore[method-assign]
        return sandbox

    async def tidy(self, fleet: str = "") -> None:
        """Break always."""
        raise ZeroDivisionError("a bug in a service")
