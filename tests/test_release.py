"""The release script, in a small repository of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

CHANGELOG = "# Changelog\n\n## [Unreleased]\n### Fixed\n- A typo.\n\n## [0.1.0] - 2026-01-31\n"
PROJECT = '[project]\nname = "paceline"\nversion = "0.1.0"\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci" / "release")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "A Tester")
    git(tmp_path, "config", "user.email", "tester@example.org")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "start")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def release(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    script = folder / ".ci" / "release"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


def test_a_release_has_its_version_its_section_and_its_tag(repository):
    assert release(repository, "0.2.0").returncode == 0
    assert 'version = "0.2.0"' in (repository / "pyproject.toml").read_text()
    empty, _, section = (repository / "CHANGELOG.md").read_text().partition("## [0.2.0] - ")
    assert empty.rstrip().endswith("## [Unreleased]")
    assert "- A typo." in section
    assert git(repository, "tag").split() == ["v0.2.0"]
    assert git(repository, "status", "--porcelain") == ""
    again = release(repository, "0.3.0")
    assert (again.returncode, again.stderr.strip()) == (
        1,
        "CHANGELOG.md: nothing stands under [Unreleased]",
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("### Fixed", "### Mended", "CHANGELOG.md: line 4: '### Mended' is none of Added, Changed"),
        ("[0.1.0] - 2026-01-31", "[0.1.0]", "CHANGELOG.md: line 7: '## [0.1.0]' is neither"),
        ("## [Unreleased]", "## [0.2.0] - 2026-02-01", "the first section must be"),
    ],
)
def test_a_changelog_out_of_form_is_refused(repository, old, new, message):
    (repository / "CHANGELOG.md").write_text(CHANGELOG.replace(old, new))
    checked = release(repository, "--check")
    assert checked.returncode == 1
    assert message in checked.stderr


def test_uncommitted_changes_are_refused(repository):
    (repository / "pyproject.toml").write_text(PROJECT + "# more\n")
    refused = release(repository, "0.2.0")
    assert refused.returncode == 1
    assert refused.stderr.strip() == "there are uncommitted changes; commit or stash them first"
    assert git(repository, "tag") == ""


def test_the_changelog_of_this_checkout_is_in_form():
    assert release(ROOT, "--check").returncode == 0
