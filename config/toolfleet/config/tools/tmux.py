"""``tmux``: one terminal of a trajectory, with keys to press and a screen to look at. No image needs tmux for it."""

from typing import Literal

from pydantic import Field

from toolfleet.config.tools.base import Arguments, Definition


class TmuxArguments(Arguments):
    """Arguments of ``tmux``."""

    action: Literal["start", "send_keys", "capture", "stream", "stop"]
    keys: str | list[str] | None = None
    """``send_keys``: text, and keys by their names: ``Enter``, ``Tab``, ``Escape``, ``Up``, ``C-c``, ``M-x`` ..."""
    block: bool = False
    """``send_keys``: wait until the command is done."""
    min_wait_s: float = Field(default=0.0, ge=0, le=600)
    """``send_keys``: look at the screen no sooner than after so many seconds."""
    max_wait_s: float = Field(default=180.0, ge=0, le=600)
    """``send_keys``: wait no longer than so many seconds."""
    capture_entire: bool = False
    """``capture``: with what has left the screen at its top."""
    max_bytes: int = Field(default=50_000, ge=1, le=200_000)
    """``stream``: bytes of output."""
    reset: bool = False
    """``start``: begin anew when there is a terminal already. ``stream``: from the beginning."""
    pane_width: int = Field(default=120, ge=20, le=500)
    """``start``: columns."""
    pane_height: int = Field(default=40, ge=10, le=200)
    """``start``: rows."""


TMUX = Definition(
    name="tmux",
    description=(
        "Use an interactive terminal: start it, send_keys (text, and keys by name such as Enter, C-c or Up), capture "
        "what is on its screen, stream what has been printed since the last stream, stop it. For editors, debuggers, "
        "interpreters and other programs that take input while they run."
    ),
    arguments=TmuxArguments,
)
