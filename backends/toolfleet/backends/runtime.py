"""A relocatable Python for the runner, made from the worker's own interpreter.

Built once for each machine, interpreter and version of the runner: the interpreter, its dynamic loader, the libraries
it links to, and exactly those modules of the standard library that the runner imports, as bytecode. Started through
its own loader it runs on any root filesystem, or on none, and every user may read it.
"""

import contextlib
import hashlib
import io
import os
import py_compile
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from toolfleet.backends.local import trust
from toolfleet.backends.local.trust import Untrusted
from toolfleet.config.errors import BackendUnavailable

#: Seconds that any step of building a bundle may take.
_PATIENCE = 60
#: Seconds after which a bundle that nobody has asked for is removed.
_UNUSED = 14 * 24 * 3600.0

_RUNNER = Path(__file__).parent / "runner"
_PACKAGE = "toolfleet.backends.runner"
#: Programs that a bundle holds, each a module of the runner with a ``main``.
Program = Literal["main", "standalone", "relay", "pristine"]

#: Where a loader looks for libraries to load before all others, and a path of the same length where nothing can be.
_PRELOAD, _NOWHERE = b"/etc/ld.so.preload", b"/dev/null/preload/"

#: Prints the files of all modules that the runner imports: those found while it does so, and those there before.
#: ``sys.modules`` alone is not enough, for a module may put another one in its own place.
_DISCOVER = """
import sys
from importlib.machinery import PathFinder

class Recorder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            found.add(spec.origin)
        return spec

found = {getattr(module, "__file__", None) for module in sys.modules.values()}
sys.meta_path.insert(0, Recorder)
sys.path.insert(0, sys.argv[1])
from toolfleet.backends.runner import main, preload, pristine, relay, standalone
preload.preload()
print(*sorted(file for file in found if file and not file.startswith(sys.argv[1])), sep="\\n")
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk, world-readable."""

    path: Path
    static: bool
    """The interpreter needs no dynamic loader."""

    def argv(self, mounted: str, *arguments: str, program: Program = "main") -> list[str]:
        """The command that starts a program of the runner where the bundle is visible at ``mounted``."""
        return self._run(mounted, f"from {_PACKAGE}.{program} import main; main()", *arguments)

    def try_out(self) -> None:
        """Start it once, doing nothing.

        Raises:
            BackendUnavailable: it does not start.
        """
        _output(self._run(str(self.path), f"from {_PACKAGE} import {', '.join(get_args(Program))}"))

    def pack(self, into: str) -> bytes:
        """The bundle as a compressed tar archive whose members lie below ``into``, all of them root's."""

        def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            return member

        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            tar.add(self.path, into.strip("/"), filter=anonymous)
        return buffer.getvalue()

    def _run(self, mounted: str, code: str, *arguments: str) -> list[str]:
        python = f"{mounted}/bin/python3"
        loader = [] if self.static else [f"{mounted}/lib/loader", "--library-path", f"{mounted}/lib", python]
        return [*(loader or [python]), "-I", "-S", "-X", "utf8", "-c", code, *arguments]


def ensure(runtime_dir: Path) -> Bundle:
    """Return the bundle, building it if this machine has none yet. Blocks for about a second when it builds.

    Raises:
        BackendUnavailable: it cannot be built or does not run.
    """
    key = _key()
    errors = []
    for root in _roots(runtime_dir):
        try:
            _make_trusted(root)
            path = root / key
            if not path.exists():
                _build(root, path)
                _prune(root)
            _check_trust(path)
            with contextlib.suppress(OSError):  # another worker's bundle, which it keeps fresh itself
                os.utime(path)
            return _found(path)
        except (OSError, Untrusted) as error:
            errors.append(f"{root}: {error}")
    raise BackendUnavailable("no directory can hold the runner's interpreter: " + "; ".join(errors))


def _found(path: Path) -> Bundle:
    return Bundle(path, static=not (path / "lib/loader").exists())


def _roots(runtime_dir: Path) -> list[Path]:
    """Directories that may hold bundles, the best first."""
    if os.geteuid() == 0:
        # Sandboxes run as users of their own, who cannot enter a private runtime directory.
        return [Path("/var/lib/toolfleet/interpreters"), runtime_dir / "interpreters"]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return [Path(cache) / "toolfleet/interpreters", runtime_dir / "interpreters"]


def _make_trusted(root: Path) -> None:
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_trust(root)


def _check_trust(path: Path) -> None:
    """Refuse a place where anyone but this user and root could have put something, or that others cannot read."""
    trust.check(path)
    for place in (path, *path.resolve().parents):
        if os.geteuid() == 0 and not place.stat().st_mode & stat.S_IXOTH:
            raise Untrusted(f"{place} cannot be entered by the users of sandboxes")


def _key() -> str:
    """Identity of a bundle: the interpreter and the runner's sources."""
    digest = hashlib.sha256(f"{sys.version}{_interpreter()}{_interpreter().stat().st_mtime_ns}".encode())
    digest.update(Path(__file__).read_bytes())
    for source in sorted(_RUNNER.rglob("*.py")):
        digest.update(str(source.relative_to(_RUNNER)).encode() + source.read_bytes())
    return f"{sys.implementation.cache_tag}-{digest.hexdigest()[:16]}"


def _interpreter() -> Path:
    """The real binary behind a virtual environment's or a version manager's links."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _build(root: Path, path: Path) -> None:
    """Build beside ``path`` and rename; of several builders at once the first one wins and the others' work goes."""
    scratch = Path(tempfile.mkdtemp(prefix=".build-", dir=root))
    try:
        _fill(scratch)
        _found(scratch).try_out()
        scratch.chmod(0o755)
        try:
            scratch.rename(path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _prune(root: Path) -> None:
    """Remove bundles that no worker has started with for long: those of former versions."""
    oldest = time.time() - _UNUSED
    for path in root.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _fill(target: Path) -> None:
    stdlib = Path(os.__file__).parent
    into = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    for directory in (target / "bin", into / "lib-dynload"):
        directory.mkdir(parents=True)
    binary = target / "bin/python3"
    _copy(_interpreter(), binary, 0o755)
    linked = [_interpreter()]
    for module in _modules():
        if module.suffix == ".py":
            _compile(module, into / module.relative_to(stdlib).with_suffix(".pyc"))
        else:
            _copy(module, into / "lib-dynload" / module.name, 0o755)
            linked.append(module)
    for source in _RUNNER.rglob("*.py"):
        _compile(source, (into / _PACKAGE.replace(".", "/") / source.relative_to(_RUNNER)).with_suffix(".pyc"))
    _compile(_RUNNER.parent / "__init__.py", into / "toolfleet/backends/__init__.pyc")
    loader = _loader(_interpreter())
    if loader is not None:
        _copy(loader, target / "lib/loader", 0o755)
        _forgo_preload(target / "lib/loader")
        for library in _libraries(loader, linked):
            _copy(library, target / "lib" / library.name, 0o755)
    for place, _, _ in os.walk(target):
        os.chmod(place, 0o755)  # noqa: S103 - whatever the umask, users of sandboxes read it


def _modules() -> list[Path]:
    """The files of all modules that the runner imports."""
    command = [str(_interpreter()), "-I", "-S", "-X", "utf8", "-c", _DISCOVER, str(_RUNNER.parents[2])]
    listing = _output(command)
    # Modules frozen into the interpreter have files too: it looks for that of ``os`` to find its library.
    return [Path(line) for line in {*listing.splitlines(), os.__file__} if Path(line).is_file()]


def _loader(binary: Path) -> Path | None:
    """The dynamic loader that an ELF binary names, None for a static one."""
    with binary.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            raise BackendUnavailable(f"{binary} is not a 64-bit ELF program")
        offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        for index in range(count):
            file.seek(offset + index * size)
            kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", file.read(size))
            if kind == 3:  # PT_INTERP
                file.seek(start)
                return Path(os.fsdecode(file.read(length).rstrip(b"\0")))
    return None


def _libraries(loader: Path, linked: list[Path]) -> list[Path]:
    found: dict[str, Path] = {}
    for item in linked:
        for line in _output([str(loader), "--list", str(item)]).splitlines():
            name, arrow, rest = line.strip().partition(" => ")
            path = rest.partition(" (")[0]
            if arrow and path.startswith("/") and not name.startswith("/"):
                found[name] = Path(path)
    return [path.parent / name for name, path in found.items()]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode:
        raise BackendUnavailable(f"cannot bundle the runner: {' '.join(command[:3])} said {done.stderr.strip()[-500:]}")
    return done.stdout


def _copy(source: Path, target: Path, mode: int) -> None:
    shutil.copyfile(source, target)
    target.chmod(mode)


def _forgo_preload(loader: Path) -> None:
    """Have the loader look for its list of libraries to load first where there is none.

    Root of a sandbox can write that list (``/etc/ld.so.preload``), and would be within every program of the runner's
    that is started after it: also the one that looks for what root has left behind.
    """
    loader.write_bytes(loader.read_bytes().replace(_PRELOAD, _NOWHERE))


def _compile(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    py_compile.compile(
        str(source), str(target), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    target.chmod(0o644)
