"""The pages of the reference are made while the site is built, one for each public package."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference_pages import PACKAGES, page  # beside this file, where mkdocs looks


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.docs_dir).parent
    for package in PACKAGES:
        files.append(File.generated(config, f"api/{package}.md", content=page(package, root)))
    return files
