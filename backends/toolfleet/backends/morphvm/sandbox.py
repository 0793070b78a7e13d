"""A VM with a runner in it, as one process holds it."""

import logging
import time

from toolfleet.backends.base import Known, Outcome, Request, SandboxRef
from toolfleet.backends.channel import Channel
from toolfleet.backends.morphvm import install
from toolfleet.backends.morphvm.account import Account, Gone, Passing, Refused
from toolfleet.backends.morphvm.login import Door, Login
from toolfleet.backends.morphvm.rest import Rest
from toolfleet.backends.sandbox import Keeper, RunnerSandbox
from toolfleet.backends.transports import ByteStream, piped, sealed
from toolfleet.config.errors import BackendUnavailable, SandboxLost
from toolfleet.config.options import MorphOptions
from toolfleet.config.patience import persist

log = logging.getLogger(__name__)

#: Seconds for which a way into the VM is sought again; a channel waits a little longer for it.
_WAY_IN = 8.0


class MorphSandbox(RunnerSandbox):
    """See `toolfleet.backends.base.Sandbox`. ``ttl`` is how long the VM has to live for now, in seconds."""

    def __init__(
        self, ref: SandboxRef, options: MorphOptions, ttl: int, account: Account, secret: bytes, keeper: Keeper
    ) -> None:
        super().__init__(ref, Channel(sealed(piped(self._relay), secret), f"sandbox {ref.id}"), keeper)
        self.login = Login(self._door)
        self._options = options
        self._account = account
        self._rest = Rest(options.pause_after, self._pause, self._resume)
        self._renew_at = time.monotonic() + ttl / 3
        self._processes = 0

    async def open(self) -> None:
        """Connect to the runner.

        Raises:
            SandboxLost: nothing answers.
        """
        await self._channel.open()
        self._rest.begin()

    async def run(self, request: Request) -> Outcome:
        """See `toolfleet.backends.base.Sandbox.run`."""
        async with self._rest.awake():
            return await super().run(request)

    async def cancel(self, call_id: str) -> bool:
        """See `toolfleet.backends.base.Sandbox.cancel`."""
        async with self._rest.awake():
            return await super().cancel(call_id)

    async def query(self, call_id: str) -> Known:
        """See `Channel.query`."""
        async with self._rest.awake():
            return await super().query(call_id)

    async def claim(self, epoch: int) -> None:
        """See `Channel.claim`."""
        async with self._rest.awake():
            await super().claim(epoch)

    async def ping(self, ttl: float) -> int:
        """See `toolfleet.backends.base.Sandbox.ping`.

        A paused VM is not resumed for it: that it exists must do, and it has the processes that it had.
        """
        try:
            if self._rest.asleep:
                await self._account.instance(self.ref.id)
            else:
                self._processes = await super().ping(ttl)
            if time.monotonic() >= self._renew_at:
                await self._account.set_ttl(self.ref.id, self._options.ttl)
                self._renew_at = time.monotonic() + self._options.ttl / 3
        except Gone as error:
            raise SandboxLost(f"sandbox {self.ref.id} is gone: {error}", sent=True) from error
        except (Passing, Refused, BackendUnavailable) as error:  # the next ping is early enough
            log.warning("the time to live of sandbox %s could not be renewed: %s", self.ref.id, error)
        return self._processes

    async def snapshot(self, name: str) -> str:
        """See `toolfleet.backends.base.Sandbox.snapshot`."""
        async with self._rest.awake():
            return await super().snapshot(name)

    async def detach(self) -> None:
        """See `toolfleet.backends.base.Sandbox.detach`."""
        await self._rest.close()
        await super().detach()
        await self.login.close()

    async def close(self) -> None:
        """See `toolfleet.backends.base.Sandbox.close`."""
        await self.detach()
        await self._keeper.destroy(self.ref)

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _door(self) -> Door:
        client = await self._account.client()
        user, key = self.ref.id, None
        if self._options.ssh_login == "instance-key":
            key = await self._account.ssh_key(user)
        else:
            user = f"{user}:{client.api_key}"
        return Door(client.ssh_hostname, int(client.ssh_port), user, key, self._options.ssh_known_hosts)

    async def _relay(self) -> ByteStream:
        """A session that leads to the runner, whatever state the VM is in."""

        async def start() -> ByteStream:
            await self._account.rouse(self.ref.id)
            return await self.login.session(install.relay(self.ref.address))

        try:
            return await persist(start, _WAY_IN, (Passing, OSError))
        except (Gone, Passing, Refused, BackendUnavailable) as error:
            raise ConnectionResetError(str(error)) from error

    async def _pause(self) -> None:
        # The clock by which the runner waits for a ping may go on meanwhile.
        await super().ping(self._options.ttl)
        await self.login.close()
        await self._account.pause(self.ref.id)

    async def _resume(self) -> None:
        try:
            await self._account.resume(self.ref.id)
        except (Gone, Passing, Refused, BackendUnavailable) as error:
            raise SandboxLost(f"sandbox {self.ref.id} cannot be resumed: {error}", sent=False) from error
