"""Who may say that another process has died: whoever was in touch with Redis all the time."""

import time


class Contact:
    """Notes when Redis confirmed a heartbeat of this process.

    After an outage every heartbeat looks lapsed until its sender has come back. A process that had no answer for a
    while, because Redis was away or it was itself, therefore judges nobody before another ``lease_ttl`` has passed.
    """

    def __init__(self, heartbeat: float, lease_ttl: float) -> None:
        self.confirmed = 0.0
        """When Redis last confirmed that this process lives, by the monotonic clock."""
        self._since = 0.0
        self._ttl = lease_ttl
        # Half a lease leaves the others the other half to be heard again.
        self._gap = max(lease_ttl / 2, 2 * heartbeat)

    def note(self) -> None:
        """Redis has confirmed a heartbeat just now."""
        now = time.monotonic()
        if now - self.confirmed > self._gap:
            self._since = now
        self.confirmed = now

    @property
    def steady(self) -> bool:
        """Redis has answered all the time, for longer than a lease lasts: what it has not heard was not said."""
        now = time.monotonic()
        return now - self.confirmed <= self._gap and now - self._since > self._ttl
