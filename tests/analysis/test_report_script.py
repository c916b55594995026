"""The script of pages, in a browser where there is one: tables sort, figures enlarge."""

import re
import shutil
import subprocess

import pytest

from fp4jax.analysis.report import html

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
# What a reader does, and what there is to see then.
CLICKS = """
const note = text => document.body.append(Object.assign(document.createElement('pre'),
  {className: 'seen', textContent: text}));
const column = () => [...document.querySelectorAll('tbody tr')].map(r => r.cells[1].textContent);
const [name, value] = document.querySelectorAll('th');
value.click(); note('up ' + column());
value.click(); note('down ' + column());
name.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'})); note('names ' + column());
note('sorted by ' + name.getAttribute('aria-sort') + value.getAttribute('aria-sort'));
const dialog = document.querySelector('dialog');
note('open ' + dialog.open);
document.querySelector('figure img').click();
note('open ' + dialog.open + ' ' + dialog.querySelectorAll('img').length);
note('larger ' + (dialog.querySelector('img').width > document.querySelector('figure img').width));
dialog.click(); note('open ' + dialog.open);
"""


@pytest.mark.skipif(not BROWSER, reason="needs Chromium, or Chrome")
def test_tables_sort_and_figures_enlarge(tmp_path):
    rows = [
        [html.Cell(name), html.number(value)]
        for name, value in (("b", 0.25), ("a", None), ("d", 10.0), ("c", 9.5))
    ]
    body = html.table(["name", "value"], rows) + html.figure(PIXEL, "a figure")
    text = html.page("title", [html.Section("one", body)])
    text = text.replace("</body>", f"<script>{CLICKS}</script></body>")
    page = tmp_path / "page.html"
    page.write_text(text, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/own"]
    shown = subprocess.run(
        [BROWSER, *options, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert re.findall(r'<pre class="seen">(.*?)</pre>', shown.stdout) == [
        "up –,0.250,9.500,10.000",
        "down 10.000,9.500,0.250,–",
        "names –,0.250,9.500,10.000",
        "sorted by ascendingnull",
        "open false",
        "open true 1",
        "open false",
    ]
