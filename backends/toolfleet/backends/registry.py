"""Backends by name, imported when first asked for."""

import difflib
import importlib
from pathlib import Path

from toolfleet.backends.base import Backend
from toolfleet.config.errors import SettingsError

#: Short names; anything else must be a dotted path, ``package.module:Class``.
BACKENDS = {
    "bubblewrap": "toolfleet.backends.bubblewrap:BubblewrapBackend",
    "docker": "toolfleet.backends.docker:DockerBackend",
    "modal": "toolfleet.backends.modal:ModalBackend",
    "morph": "toolfleet.backends.morph:MorphBackend",
}


def load(name: str, runtime_dir: Path) -> Backend:
    """Make the backend ``name``, which keeps its files under ``runtime_dir``.

    Raises:
        SettingsError: there is no such backend, it cannot be imported, or its name does not lead back to it.
    """
    path = BACKENDS.get(name, name)
    module_name, _, class_name = path.partition(":")
    if not class_name:
        raise SettingsError(_unknown(name))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SettingsError(f"the backend {name!r} cannot be imported from {module_name}: {error}") from error
    backend_class = getattr(module, class_name, None)
    if backend_class is None:
        raise SettingsError(f"the backend {name!r} is not there: {module_name} has no {class_name}")
    backend = backend_class(runtime_dir)
    if not isinstance(backend, Backend):
        raise SettingsError(f"{path} is not a backend: see toolfleet.backends.base.Backend")
    if backend.name not in (path, *BACKENDS):
        raise SettingsError(
            f"nobody could find the sandboxes of {path} again: its name is {backend.name!r}, make it {path!r}"
        )
    return backend


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, BACKENDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    known = ", ".join(sorted(BACKENDS))
    return f"there is no backend {name!r}; known are {known}, or a dotted path like package.module:Class.{hint}"
