"""Figures of docs/figures are put into the page, where they follow its colours, light or dark."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

PICTURE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*?figures/([\w-]+\.svg)"\s*/?></p>')
STYLE = re.compile(r"<style>.*?</style>\n?")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def put(match: re.Match[str]) -> str:
        drawing = (Path(config.docs_dir) / "figures" / match[2]).read_text()
        caption = f"<figcaption>{match[1]}</figcaption>"
        return f'<figure class="drawn">{STYLE.sub("", drawing)}{caption}</figure>'

    return PICTURE.sub(put, html)
