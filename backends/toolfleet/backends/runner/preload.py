"""Everything that is imported on first use elsewhere, imported now: after the pivot the bundle is out of reach."""

import codecs
import importlib
import json
import tarfile

_ENCODINGS = ("utf-8", "ascii", "latin-1", "iso8859-1")
_MODULES = ("bz2", "gzip", "lzma", "zlib", "traceback", "linecache", "tokenize", "signal", "copy", "warnings")


def preload() -> None:
    """Import the modules and codecs that archives, tracebacks and error messages may need."""
    for name in _MODULES:
        importlib.import_module(name)
    for name in _ENCODINGS:
        codecs.lookup(name)
    json.loads(json.dumps({"": [None]}))
    tarfile.TarInfo().tobuf()
