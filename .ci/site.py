"""Pages of the site that are not in docs/: what pages link to elsewhere in the repository.

The README is the first page, SECURITY.md and CHANGELOG.md are pages as they are, and a program or a directory that a
page links to is shown on a page of its own, under source/. So the same relative links work in the repository and on
the site. mkdocs calls the functions named on_….
"""

from __future__ import annotations

import logging
import os
import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {"README.md": "index.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*\bhref=\"?(?:https?:)?//")

UNSEARCHED = "---\nsearch: {exclude: true}\n---\n\n"

log = logging.getLogger("mkdocs.hooks.site")
origins: dict[str, pathlib.Path] = {}  # where the text of a page that is not in docs/ stands


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Make pages of what is linked to, and of what that links to."""
    origins.clear()
    todo = [ROOT / name for name in PAGES]
    for page in files.documentation_pages():
        todo += outside(page.content_string, DOCS / posixpath.dirname(page.src_uri))
    while todo:
        path = todo.pop()
        if (uri := uri_of(path)) in origins:
            continue
        origins[uri] = path
        text = text_of(path)
        files.append(File.generated(config, uri, content=text))
        if path.is_dir():
            todo += programs(path)
        elif path.suffix == ".md":
            todo += outside(text, path.parent)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside docs/, and links in such files, lead to their pages."""
    here = page.file.src_uri
    home = origins[here].parent if here in origins else DOCS / posixpath.dirname(here)
    if here.startswith("source/"):
        return markdown

    def to_page(link: re.Match[str]) -> str:
        path = pathlib.Path(os.path.normpath(home / link["path"]))
        if not path.exists():
            return link[0]  # mkdocs says so
        return f"]({posixpath.relpath(uri_of(path), posixpath.dirname(here))}{link['anchor'] or ''})"

    return LINK.sub(to_page, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Whoever reads a page is seen by nobody else."""
    if found := LOADED.search(output):
        log.warning("%s loads something from another host: %s", page.file.src_uri, found[0])


def outside(text: str, home: pathlib.Path) -> list[pathlib.Path]:
    """The files outside docs/ that a text links to."""
    paths = [pathlib.Path(os.path.normpath(home / link["path"])) for link in LINK.finditer(text)]
    return [path for path in paths if path.exists() and path.is_relative_to(ROOT) and not path.is_relative_to(DOCS)]


def uri_of(path: pathlib.Path) -> str:
    """The page, or the file of docs/, that shows a file."""
    if path.is_relative_to(DOCS):
        return (path / "index.md" if path.is_dir() else path).relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return f"source/{name}/index.md" if path.is_dir() else PAGES.get(name, f"source/{name}.md")


def text_of(path: pathlib.Path) -> str:
    """The page that shows a file."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    title = f"{UNSEARCHED}# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_dir():
        return title + "\n".join(f"* [{each.name}]({each.name}.md)" for each in programs(path))
    language = {".py": "python", ".c": "c"}.get(path.suffix, "text")
    return f"{title}`````{language}\n{path.read_text(encoding='utf-8')}`````\n"


def programs(directory: pathlib.Path) -> list[pathlib.Path]:
    """What is listed of a directory."""
    return sorted(path for path in directory.iterdir() if path.suffix in (".py", ".c"))
