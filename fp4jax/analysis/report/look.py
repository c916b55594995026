"""Style and script of pages: light and dark, tables that sort by a click, figures that enlarge."""

STYLE = """
:root { --paper: #ffffff; --ink: #1d2329; --faint: #5d6873; --line: #d5dbe1; --shade: #f3f5f7;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e3e7ea; --faint: #a3adb7;
  --line: #39424b; --shade: #1e242a; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .6rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem;
  padding-top: .6rem; border-top: 1px solid var(--line); } h3 { font-size: 1rem; }
p { max-width: 75ch; } a { color: var(--link); }
nav ol { columns: 16rem 3; padding-left: 1.4rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding: .2rem .6rem; }
th, td { padding: .28rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { background: var(--shade); } td small { display: block; color: var(--faint); }
td { white-space: nowrap; } td.long { white-space: normal; overflow-wrap: anywhere;
  max-width: 40rem; }
tbody tr:hover { background: var(--shade); }
th.sorts { cursor: pointer; } th[aria-sort=ascending]::after { content: " ▲"; }
th[aria-sort=descending]::after { content: " ▼"; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 4px; padding: 4px; }
figure img { cursor: zoom-in; }
figure img.pixels { image-rendering: pixelated; width: 100%; padding: 0; background: none; }
dialog { border: 0; padding: 0; margin: auto; max-width: 100vw; max-height: 100vh; overflow: auto;
  background: #fff; cursor: zoom-out; } dialog::backdrop { background: rgb(0 0 0 / .75); }
dialog img { display: block; width: max(var(--own), min(96vw, 94vh * var(--ratio))); }
dialog img.pixels { image-rendering: pixelated;
  width: min(96vw, 96vh); }
.panels { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 14rem)); }
.panels > div { display: grid; grid-template-rows: subgrid; grid-row: span 2; gap: .4rem; }
.panels figure { margin: 0; } .panels figcaption { overflow-wrap: anywhere; }
.beside { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
figcaption { color: var(--faint); font-size: .87rem; max-width: 90ch; }
summary { cursor: pointer; margin: .6rem 0; }
pre { background: var(--shade); padding: .8rem; overflow-x: auto; font-size: .8rem; }
@media print { nav, th::after { display: none; } details > * { display: block; } }
@media (max-width: 40rem) { main { padding: 1rem .8rem 3rem; } nav ol { columns: 1; }
  h1 { font-size: 1.35rem; overflow-wrap: anywhere; } td.long { min-width: 12rem; }
  .panels { grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); } }
"""

SCRIPT = """
for (const head of document.querySelectorAll('thead th')) {
  head.classList.add('sorts');
  head.tabIndex = 0;
  const sort = () => {
    const table = head.closest('table'), body = table.tBodies[0], column = head.cellIndex;
    const down = head.getAttribute('aria-sort') === 'ascending';
    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const order = (a, b) => {
      const x = key(a), y = key(b), difference = x - y;
      return Number.isNaN(difference) ? x.localeCompare(y) : difference;
    };
    const rows = [...body.rows].sort(order);
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    body.append(...(down ? rows.reverse() : rows));
  };
  head.addEventListener('click', sort);
  head.addEventListener('keydown', event => { if (event.key === 'Enter') sort(); });
}
const large = document.createElement('dialog');
large.setAttribute('aria-label', 'enlarged figure');
large.addEventListener('click', () => large.close());
document.body.append(large);
for (const image of document.querySelectorAll('figure img')) {
  image.tabIndex = 0;
  image.setAttribute('aria-haspopup', 'dialog');
  const enlarge = () => {
    const copy = image.cloneNode();
    copy.tabIndex = -1;
    // As large as the window takes, and never smaller than it was drawn.
    copy.style.setProperty('--own', image.naturalWidth + 'px');
    copy.style.setProperty('--ratio', image.naturalWidth / image.naturalHeight);
    large.replaceChildren(copy);
    large.showModal();
  };
  image.addEventListener('click', enlarge);
  image.addEventListener('keydown', event => { if (event.key === 'Enter') enlarge(); });
}
"""
