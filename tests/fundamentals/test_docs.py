"""The documents say what is so: settings are complete, links lead somewhere, and the code in them runs."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from services import missing

from toolfleet.config import settings
from toolfleet.config.profile import Profile
from toolfleet.config.settings import Retries, Settings

ROOT = Path(__file__).parents[2]
_HIDDEN = {path.name for path in ROOT.iterdir() if path.name.startswith(".")}
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if p.relative_to(ROOT).parts[0] not in _HIDDEN)

#: ``[text](target)``, but not inside a code span.
_LINK = re.compile(r"\[[^\]`]+(?:`[^`]*`[^\]`]*)*\]\(([^)\s]+)\)|\[`[^`]+`\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(path: Path) -> str:
    """Where a document stands."""
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of ``language`` in a document, also those inside a list."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]


def anchors(path: Path) -> set[str]:
    """The anchors that a heading makes."""
    headings = _HEADING.findall(path.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def programs() -> list[tuple[str, str]]:
    """(document, code) of every whole program in the documents; a fragment begins without an import."""
    found = [(name_of(path), code) for path in DOCUMENTS for code in blocks(path, "python")]
    return [(name, code) for name, code in found if code.startswith(("import ", "from "))]


@pytest.mark.parametrize("model", [Settings, Retries, Profile], ids=lambda model: model.__name__)
def test_every_setting_is_described_with_its_default(model: type[Settings] | type[Retries] | type[Profile]) -> None:
    rows = [line for line in (ROOT / "config" / "README.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    described = {cells[1].strip().strip("`"): cells[2] for row in rows if (cells := row.split("|"))}
    for name, field in model.model_fields.items():
        key = f"retries.{name}" if model is Retries else name
        assert key in described, f"config/README.md has no row for {key}"
        if isinstance(field.default, str | int | float):
            assert f"`{field.default}`" in described[key].replace(" ", "").replace("_", ""), key


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for link in filter(None, (a or b for a, b in _LINK.findall(document.read_text("utf-8")))):
        if "://" in link:
            continue
        where, _, anchor = link.partition("#")
        target = (document.parent / where).resolve() if where else document
        assert target.exists(), f"{name_of(document)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(document)} links to {link}"


@pytest.mark.parametrize(("document", "code"), programs(), ids=lambda value: value.split("\n", 1)[0])
def test_every_program_in_a_document_runs(document: str, code: str, tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        missing("bubblewrap")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), document
    printed = blocks(ROOT / document, "text")
    assert done.stdout in printed, f"{document} does not show what its program prints: {done.stdout}"


def test_the_readme_shows_a_program() -> None:
    assert "README.md" in [document for document, _ in programs()]


@pytest.mark.parametrize("toml", [toml for document in DOCUMENTS for toml in blocks(document, "toml")])
def test_every_configuration_in_the_documents_is_valid(
    toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toolfleet.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    settings.load()
