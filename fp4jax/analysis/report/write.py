"""One self-contained page that says what a study found, and the tables and figures beside it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp4jax.analysis import stats
from fp4jax.analysis.figures.style import data_url, png, shown, title as heading
from fp4jax.analysis.report import comparisons, drawings, html
from fp4jax.analysis.report.frames import Frames
from fp4jax.analysis.report.headline import headline, size
from fp4jax.analysis.report.html import Cell, Section, paragraph
from fp4jax.files import replacing

if TYPE_CHECKING:
    import pandas as pd

    from fp4jax.analysis.results import RunResult

_READING = (
    "Every number is of test patients that a run saw neither in training nor when its best "
    "epoch and its threshold were chosen: the best epoch is that of the lowest validation loss, "
    "the threshold that of the best F2 on the validation patients. Recall, F2 and Dice are at "
    "that threshold; AUPRC (average precision over all pixels) and ECE need none. The unit of "
    "replication is a run: one seed on one split. Means ± sd and 95 % t intervals are over the "
    "runs of a label and speak of further seeds (or folds) on the same patients; what other "
    "patients would have given is in the patient bootstrap. Labels are recipes, with the "
    "paper's number in brackets; 'ptq' is the trained baseline quantized without a further "
    "step, 'qad' is distilled from it, all others are trained with the recipe. Runs of equal "
    "split and seed start from the same weights and see the same images, so labels are compared "
    "within pairs; per cent of baseline is against the same split and seed. In 'a − b', "
    "positive means that a is better."
)


def write_report(
    path: Path,
    *,
    title: str,
    runs: "Sequence[RunResult]",
    configuration: dict[str, Any],
    fingerprint: dict[str, Any],
    expectations: Sequence[tuple[str, str, str]] = (),
    failures: Sequence[tuple[str, str]] = (),
    pictures: bool = True,
    resamples: int = 2000,
) -> None:
    """Writes a page, ``tables/*.csv`` and ``figures/*.png`` beside it; replaces earlier ones.

    The page needs no other file and no network. Equal arguments give equal files.

    Args:
        path: of the page; its folder is created.
        title: of the page.
        runs: finished runs, at most one of each label, architecture, scale, split and seed.
        configuration: of the study.
        fingerprint: of the cohort, see :func:`fp4jax.data.fingerprint`.
        expectations: (name, expected, got) of what was stated in advance.
        failures: (name, error) of runs that failed.
        pictures: whether to show images of patients. They are part of the data, whose licence may
            forbid to pass them on; without, pictures of an earlier report in this folder are
            deleted.
        resamples: of the patient bootstrap.

    Raises:
        ValueError: no runs, or one that occurs twice.
        OSError: a file that cannot be written.
    """
    if not runs:
        raise ValueError("a report needs finished runs, got none; train some first.")
    frames = Frames.of(runs, resamples)
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    frames.write(folder / "tables")
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    if not pictures:
        for old in figures.glob("predictions_*.png"):
            old.unlink()

    def drawn(found: Iterable[drawings.Drawing]) -> str:
        return "".join(_embedded(drawing, figures) for drawing in found)

    sections = [
        Section("Results", headline(frames.runs, frames.relative)),
        Section("How to read this", paragraph(_READING)),
        *_compared(frames, drawn(drawings.comparisons(frames.runs, frames.relative))),
        *_checks(expectations, failures),
        *_some("Scores of the test patients", drawn(drawings.curves(runs))),
        *_some("Training", drawn(drawings.training(runs))),
        *(_some("Predictions", drawn(drawings.predictions(runs))) if pictures else ()),
        Section("Runs", _runs(frames.runs)),
        Section("Configuration", html.pairs(configuration)),
        Section("Cohort", _cohort(fingerprint)),
    ]
    text = html.page(title, sections, _lead(runs, failures))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _embedded(drawing: drawings.Drawing, folder: Path) -> str:
    image = png(drawing.figure)
    with replacing(folder / f"{drawing.name}.png") as temporary:
        temporary.write_bytes(image)
    return html.figure(data_url(image), drawing.caption)


def _some(name: str, body: str) -> Iterator[Section]:
    if body:
        yield Section(name, body)


def _lead(runs: "Sequence[RunResult]", failures: Sequence[tuple[str, str]]) -> str:
    devices = ", ".join(sorted({str(run.summary.get("device")) for run in runs}))
    text = f"{len(runs)} finished run{'s' if len(runs) > 1 else ''}, trained on {devices}."
    if failures:
        text += f" {len(failures)} failed: see 'Failed runs'; tables are of the others."
    return paragraph(text)


def _compared(frames: Frames, figures: str) -> Iterator[Section]:
    yield from _some("Comparison of recipes", figures)
    body = ""
    if len(frames.comparisons):
        body += paragraph(
            "Test AUPRC of each label against the baseline of the same split and seed. Tests are "
            "Wilcoxon's, two-sided, with Holm's correction within each architecture and scale; "
            "'smallest p' is what the corrected p cannot fall below with so many pairs, and where "
            "that is not below 0.05 a difference is 'out of reach' of the test. "
            + stats.power_note(frames.comparisons)
        )
        body += comparisons.paired(frames.comparisons)
    else:
        body += paragraph("No run has a baseline of the same split and seed to compare it with.")
    if len(frames.all_pairs):
        note = (
            "All labels with each other, as the paper does; the correction is for all of them. "
            "These comparisons are exploratory. " + stats.power_note(frames.all_pairs)
        )
        pairs = paragraph(note) + comparisons.paired(frames.all_pairs)
        body += html.details(f"All {len(frames.all_pairs)} pairs", pairs)
    yield Section("Statistics", body)
    if len(frames.kendall):
        note = (
            "Kendall's W says whether each seed and split ranks the labels alike: 1 if all "
            "agree, about 1/n by chance. It takes two blocks at least."
        )
        yield Section("Ranks", paragraph(note) + comparisons.ranks(frames.kendall))
    if len(frames.patient_bootstrap):
        note = (
            "Hierarchical bootstrap of test AUPRC: runs are drawn anew, and the patients of each "
            "test set with them. These intervals speak of other patients too, and are the ones "
            "to quote for a claim beyond this cohort. With one run only patients are drawn."
        )
        body = paragraph(note) + comparisons.patients(frames.patient_bootstrap)
        yield Section("Patient bootstrap", body)


def _checks(
    expectations: Sequence[tuple[str, str, str]], failures: Sequence[tuple[str, str]]
) -> Iterator[Section]:
    if expectations:
        rows = [[Cell(text) for text in row] for row in expectations]
        yield Section("Expected against got", html.table(["what", "expected", "got"], rows))
    if failures:
        body = "".join(html.details(name, html.preformatted(error)) for name, error in failures)
        yield Section("Failed runs", body)


def _runs(runs: "pd.DataFrame") -> str:
    columns: dict[str, Any] = {
        "arch": ("architecture", lambda value: Cell(heading(value))),
        "scale": ("scale", size),
        "label": ("label", lambda value: Cell(shown(value))),
        "split": ("split", Cell),
        "seed": ("seed", html.number),
        "test_auprc": ("test AUPRC", html.number),
        "val_auprc": ("validation AUPRC", html.number),
        "threshold": ("threshold", lambda value: html.number(value, 2)),
        "best_epoch": ("best epoch", html.number),
        "epochs_run": ("epochs", html.number),
        "train_seconds": ("seconds of training", lambda value: html.number(value, 1)),
        "run": ("folder", Cell),
    }
    return html.details(f"All {len(runs)} runs", html.frame_table(runs, columns))


def _cohort(fingerprint: dict[str, Any]) -> str:
    # A checksum per slice is for machines: it is in the cohort's fingerprint, not here.
    return html.pairs({key: value for key, value in fingerprint.items() if key != "crc32"})
