"""The site: what code makes of it is up to date, the reference whole, the build strict."""

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import pytest

from docs.generate.everything import made
from docs.generate.svg import COLOURS
from docs.hooks.reference_pages import PACKAGES, page, public_names

ROOT = Path(__file__).parents[1]


@pytest.mark.usefixtures("standard_promotion")
def test_figures_and_tables_are_what_the_code_makes():
    for path, content in made().items():
        assert (ROOT / path).read_text() == content, f"{path}: run `python -m docs.generate`"


def test_figures_have_the_same_colours_in_the_site():
    css = (ROOT / "docs/stylesheets/site.css").read_text()
    for name, (light, dark) in COLOURS.items():
        assert re.findall(rf"{name}: (#\w+);", css) == [light, dark]


def offered(module: ModuleType, package: str) -> set[str]:
    """Public functions and classes of a module, found by importing it."""
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    whose = f"{package}." if hasattr(module, "__path__") else package
    return {
        name
        for name, value in found.items()
        if callable(value) and str(getattr(value, "__module__", "")).startswith(whose)
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package):
    module = importlib.import_module(package)
    names = public_names(package, ROOT)
    assert names
    assert all(hasattr(module, name) for name in names)
    whole = getattr(module, "__all__", None)
    assert set(names) >= (offered(module, package) if whole is None else set(whole))
    text = page(package, ROOT)
    assert all(f"\n::: {package}.{name}\n" in text for name in names)


def test_every_public_package_has_a_page_of_the_reference():
    for path in (ROOT / "fp4jax").glob("*/__init__.py"):
        package = f"fp4jax.{path.parent.name}"
        assert package in PACKAGES or not public_names(package, ROOT), package
    pages = re.findall(r"api/([\w.]+)\.md", (ROOT / "mkdocs.yml").read_text())
    assert pages == list(PACKAGES)


class Html(HTMLParser):
    """Anchors, links, and what a browser loads by itself."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {key: value for key, value in attrs if value}
        self.ids.update(values[key] for key in ("id", "name") if key in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [values[key] for key in ("src", "data") if key in values]
        if tag == "link":
            self.loaded.append(values.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Html]:
    pytest.importorskip("material", reason="extra docs")
    pytest.importorskip("mkdocstrings", reason="extra docs")
    pytest.importorskip("ziamath", reason="extra docs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Html(path.read_text()) for path in out.rglob("*.html")}


@pytest.mark.slow
def test_links_and_anchors_of_the_site_exist(site):
    for path, html in site.items():
        for link in html.links + html.loaded:
            if re.match(r"(https?|mailto|data):", link) or path.name == "404.html":
                continue
            address, anchor = urldefrag(link)
            target = (path.parent / unquote(address)).resolve() if address else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in site and not anchor.startswith("__"):
                assert unquote(anchor) in site[target].ids, f"{path.name}: {link}"


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_hosts(site):
    for path, html in site.items():
        assert not [address for address in html.loaded if "//" in address], path.name
    css = next(iter(site)).parent
    assert not re.findall(r"url\(https?:|@import", (css / "stylesheets/site.css").read_text())


@pytest.mark.slow
def test_the_site_has_every_name_and_every_equation(site):
    folder = next(path.parent for path in site if path.name == "404.html")
    for package in PACKAGES:
        ids = site[folder / "api" / f"{package}.html"].ids
        assert not {f"{package}.{name}" for name in public_names(package, ROOT)} - ids
    text = (folder / "nvfp4.html").read_text()
    equations = len(
        re.findall(r"^\$\$\n.*?^\$\$", (ROOT / "docs/nvfp4.md").read_text(), re.S | re.M)
    )
    assert text.count('<div class="equation"><svg') == equations > 0
    assert text.count('<figure class="drawn"><svg') == 3
    assert "arithmatex" not in text
    reference = (folder / "api" / "fp4jax.html").read_text()
    assert "&gt;&gt;&gt; " in re.sub(r"</?span[^>]*>", "", reference)  # examples are code
