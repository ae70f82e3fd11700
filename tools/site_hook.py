"""What MkDocs can't do itself for the site: the README is its first page, and links out of docs/ lead to copies.

A page of Markdown is copied as it is, of another file a page shows the text. Copies are below ``repository/``, each
where the file is in the checkout. So the site needs no address of a repository, and no network.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).parents[1]
FIRST = "README.md"
COPIES = "repository/"
# Those that the navigation names.
PAGES = (FIRST, "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]+)?\)")
# The text of a program is found by its link; in the search it would be in the way.
SHOWN = "---\nsearch: {{exclude: true}}\n---\n# {path}\n\n``````{language}\n{text}\n``````\n"
LANGUAGES = {".yml": "yaml", ".toml": "toml", ".sql": "sql", ".py": "python"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the copies: of pages, of all files that a page links to, and of what these link to."""
    waiting = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if path.endswith(".md"):
            linked = {target(path, link) for link, _ in LINK.findall(read(path))}
            new = {file for file in linked - seen if (CHECKOUT / file).is_file()}
            waiting += new
            seen |= new
    for path in sorted(seen):
        if not path.startswith("docs/"):
            level = InclusionLevel.INCLUDED if path in PAGES else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, place(path), content=copy(path), inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let each link lead to where the file is on the site."""
    uri = page.file.src_uri
    path = source(uri)
    if not path.endswith(".md"):
        return markdown

    def moved(link: re.Match[str]) -> str:
        to = os.path.relpath(place(target(path, link[1])), os.path.dirname(uri))
        return f"]({to}{link[2] or ''})"

    return LINK.sub(moved, markdown)


def target(page: str, link: str) -> str:
    """The file that a page links to, both as paths in the checkout."""
    return os.path.normpath(os.path.join(os.path.dirname(page), link))


def place(path: str) -> str:
    """Where a file of the checkout is on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == FIRST:
        return "index.md"
    return COPIES + (path if path.endswith(".md") else f"{path}.md")


def source(uri: str) -> str:
    """The file of the checkout that is at this place of the site."""
    if uri == "index.md":
        return FIRST
    if not uri.startswith(COPIES):
        return f"docs/{uri}"
    path = uri.removeprefix(COPIES)
    return path if (CHECKOUT / path).exists() else path.removesuffix(".md")


def copy(path: str) -> str:
    if path.endswith(".md"):
        return read(path)
    return SHOWN.format(path=path, language=LANGUAGES.get(Path(path).suffix, "text"), text=read(path))


def read(path: str) -> str:
    return (CHECKOUT / path).read_text(encoding="utf-8")
