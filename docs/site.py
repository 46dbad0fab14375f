"""Hooks of mkdocs: the navigation is made from the folders, and pages outside docs/ join the site.

A new page in a folder of docs/ needs no line here: it is listed by its title. Links are written for a reader
of the repository; they are turned to the site's page, or into plain text where the site has none.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "STYLE.md": "project/style.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "results/README.md": "project/records.md",
    "perf/README.md": "project/speed.md",
    "zoo/README.md": "project/zoo.md",
    "tests/README.md": "project/tests.md",
}
"""Pages of the repository that aren't in docs/, and their places in the site."""

SECTIONS: dict[str, Any] = {
    "Start": ("index.md", "guide.md", "faq.md", "glossary.md"),
    "Tutorials": (
        "tutorials/first-merge.md",
        "tutorials/merge-two-loras.md",
        "tutorials/choose-the-strength.md",
        "tutorials/compose-an-omni-model.md",
        "tutorials/write-a-method.md",
        "tutorials/coming-from-mergekit.md",
        "tutorials/",
    ),
    "How to": ("how-to/index.md", "how-to/"),
    "Reference": (
        "reference/README.md",
        "reference/",
        {"Methods": ("reference/methods/README.md", "reference/methods/")},
    ),
    "Explanation": ("explain/architecture.md", "benchmark.md", "omni.md", "explain/"),
    "Project": ("project/",),
}
"""Tabs: a page, or a folder, which stands for its pages that aren't listed before it, by title."""


def on_files(files: Files, config: Any) -> Files:
    """Adds what isn't a Markdown file in docs/, and the navigation."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text("utf-8")))
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        place = notebook.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, place, content=from_notebook(notebook)))
    pages = {file.src_uri: _title(file.content_string) for file in files.documentation_pages()}
    files.append(File.generated(config, "how-to/index.md", content=_index(pages)))
    config.nav = [{name: list(_listed(entries, pages, set()))} for name, entries in SECTIONS.items()]
    return files


def _listed(entries: Any, pages: dict[str, str], taken: set[str]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, dict):
            yield from ({name: list(_listed(inner, pages, taken))} for name, inner in entry.items())
        elif not entry.endswith("/"):
            taken.add(entry)
            yield entry
        else:
            found = [page for page in pages if posixpath.dirname(page) + "/" == entry and page not in taken]
            yield from sorted(found, key=lambda page: pages[page].lower())


def _title(text: str) -> str:
    return next(iter(re.findall(r"^# (.+)$", text, re.MULTILINE)), "")


def _index(pages: dict[str, str]) -> str:
    found = sorted((title, page) for page, title in pages.items() if posixpath.dirname(page) == "how-to")
    return "\n".join(
        ["# How to", "", *(f"* [{title}]({posixpath.basename(page)})" for title, page in found), ""]
    )


def from_notebook(path: Path) -> str:
    """A notebook as Markdown, with what its cells printed and drew."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [shown for each in cell.get("outputs", ()) if (shown := _output(each))]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        base64.b64decode(picture, validate=True)
        return f'<img alt="What the cell above draws" src="data:image/png;base64,{picture}">'
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the repository become links of the site."""
    places = {place: source for source, place in OUTSIDE.items()}
    source = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = re.split(r"(^```.*?^```|`[^`\n]+`(?!\]\())", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        part if part.startswith("`") else _relinked(part, source, page.file.src_uri, files) for part in parts
    )


def _relinked(text: str, source: str, here: str, files: Files) -> str:
    def relinked(match: re.Match[str]) -> str:
        mark, words, target, anchor = match.groups(default="")
        if "://" in target or not target:
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = _place(wanted, files)
        if place is None:
            return words
        return f"{mark}[{words}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)", relinked, text)


def _place(wanted: str, files: Files) -> str | None:
    """Where the site has what lies there in the repository."""
    if wanted in OUTSIDE:
        return OUTSIDE[wanted]
    inside = wanted.removeprefix("docs/").replace(".ipynb", ".md")
    candidates = (inside, f"{inside}/README.md", f"{inside}/index.md")
    return next(
        (each for each in candidates if wanted.startswith("docs/") and files.get_file_from_path(each)), None
    )
