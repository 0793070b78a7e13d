"""``toolfleet profile check``: every profile is tried, and what cannot be served is told with its reason."""

from cli_home import Home

PROFILES = """
[profiles.plain]
[profiles.imaged]
image = "debian"
"""


def test_each_profile_is_tried(home: Home) -> None:
    (home.folder / "toolfleet.toml").write_text(PROFILES)
    done = home.run("profile", "check")
    assert done.returncode == 1, done.stderr
    rows = {cells[1].strip(): cells for line in done.stdout.splitlines() if len(cells := line.split("│")) > 4}
    assert [rows["plain"][n].strip() for n in (2, 3)] == ["bubblewrap", "good"]
    assert [rows["imaged"][n].strip() for n in (2, 3)] == ["bubblewrap", "refused"]
    assert "takes no image" in rows["imaged"][4]
    home.wait_until_clean()


def test_only_those_that_are_named(home: Home) -> None:
    (home.folder / "toolfleet.toml").write_text(PROFILES)
    done = home.run("profile", "check", "plain")
    assert done.returncode == 0, done.stderr
    assert "imaged" not in done.stdout
    done = home.run("profile", "check", "plian")
    assert done.returncode == 2
    assert "no profile and no backend" in done.stderr
