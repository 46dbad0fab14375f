"""The site is built without a warning, whole, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.blocks import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and "not included in the" not in ran.stderr, ran.stderr
    return out


@pytest.mark.slow
def test_every_page_of_the_repository_is_a_page_of_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix().replace("README", "index")
        assert (site / place).exists(), place


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text("utf-8")
        )
        assert not [each for each in loaded if "canonical" not in each], page


@pytest.mark.slow
def test_links_of_the_repository_lead_to_pages_of_the_site(site: Path) -> None:
    text = (site / "index.html").read_text("utf-8")
    for place in ("tutorials/merge-two-loras.html", "project/changelog.html", "tutorials/first-merge.html"):
        assert f'href="{place}"' in text and (site / place).exists()
