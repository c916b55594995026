"""Files outside of docs/ that pages link to become part of the site, under their own paths.

A page may link to any file of the repository as it does on the disk; the links are rewritten to
where the site has it. Markdown among these files becomes a page, whose links are followed in turn;
a folder that is linked to becomes a page with its files.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: A link or picture of Markdown to a file: its address without the anchor, the anchor.
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
#: Code in a fence, in which brackets are no links.
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
DOCS = "docs/"


def in_repository(page: str, target: str) -> str:
    """The path in the repository of what a page, at its path there, links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def in_site(path: str) -> str:
    """Where the site has a file of the repository."""
    return path.removeprefix(DOCS)


def rewritten(markdown: str, page: str, root: Path) -> str:
    """The text of a page, its path given in the repository, with links as the site has them."""

    def link(match: re.Match[str]) -> str:
        path = in_repository(page, match[1])
        target = in_site(f"{path}/index.md" if (root / path).is_dir() else path)
        start = posixpath.dirname(in_site(page)) or "."
        return posixpath.relpath(target, start) + (match[2] or "")

    parts = FENCE.split(markdown)  # every second one is code
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def linked(root: Path) -> set[str]:
    """All files and folders outside of docs/ that its pages, and pages found by them, link to."""
    queue = [path.relative_to(root).as_posix() for path in (root / DOCS).rglob("*.md")]
    found: set[str] = set()
    while queue:
        page = queue.pop()
        for target, _ in LINK.findall(FENCE.sub("", (root / page).read_text())):
            path = in_repository(page, target)
            if path.startswith(DOCS) or path in found or not (root / path).exists():
                continue
            found.add(path)
            if (root / path).is_dir():
                found.update(file.relative_to(root).as_posix() for file in (root / path).iterdir())
            if path.endswith(".md"):
                queue.append(path)
    return found


def listing(folder: Path) -> str:
    """A page with the pictures of a folder, and links to its other files."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    pictures = [f"## {name}\n\n![{name}]({name})" for name in names if name.endswith(".png")]
    others = "\n".join(f"- [{name}]({name})" for name in names if not name.endswith(".png"))
    return "\n\n".join([f"# {folder.name}", others, *pictures]) + "\n"


def repository(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent


def path_of(file: File, config: MkDocsConfig) -> str:
    """A file's path in the repository; that of a generated one is where its folder lies."""
    if file.abs_src_path is None:
        outside = (repository(config) / file.src_uri).parent.is_dir()
        return file.src_uri if outside else DOCS + file.src_uri
    return Path(file.abs_src_path).relative_to(repository(config)).as_posix()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = repository(config)
    for path in sorted(linked(root)):
        if (root / path).is_dir():
            content = listing(root / path)
            files.append(File.generated(config, f"{path}/index.md", content=content))
        else:
            files.append(File(path, str(root), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return rewritten(markdown, path_of(page.file, config), repository(config))
