"""How the address of a runner's socket is written: a path, or ``@name`` for an abstract one, which has no file."""


def unix_address(text: str) -> str:
    """``text`` as the socket functions want it."""
    return "\0" + text[1:] if text.startswith("@") else text
