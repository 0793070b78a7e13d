"""The blocking twin moves files as well."""

from pathlib import Path

from toolfleet.producer import SyncFleet


def test_the_blocking_twin_does_the_same(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("text")
    with SyncFleet.connect(workers=1, heartbeat=0.2) as fleet, fleet.trajectory() as t:
        assert t.upload(tmp_path / "d/f", "/tmp/f", mode=0o640).mode == 0o640
        assert t.download("/tmp/f", tmp_path / "g").bytes == 4
        assert t.upload_dir(tmp_path / "d", "/tmp/d").entries == 1
        assert t.download_dir("/tmp/d", tmp_path / "e", max_bytes=100).entries == 1
    assert (tmp_path / "e/f").read_text() == "text"
