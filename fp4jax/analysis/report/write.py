"""One self-contained page that says what a study found, and the tables and figures beside it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp4jax.analysis import stats
from fp4jax.analysis.figures.style import data_url, png, shown, title as heading
from fp4jax.analysis.report import comparisons, drawings, html
from fp4jax.analysis.report.frames import Frames
from fp4jax.analysis.report.headline import headline, size
from fp4jax.analysis.report.html import Cell, Section, paragraph
from fp4jax.analysis.report.made import RESEARCH, made_with, summary
from fp4jax.analysis.stats.verdicts import MARGIN
from fp4jax.files import replacing

if TYPE_CHECKING:
    import pandas as pd

    from fp4jax.analysis.results import RunResult

_READING = (
    "Every number is of test patients that a run saw neither in training nor when its best "
    "epoch and its threshold were chosen: the best epoch is that of the {monitor} on the "
    "validation patients, the threshold that of the best F2 on them. Each {example} is quantized "
    "as if it were alone, so that no score depends on what else is scored. Recall, F2 and Dice are "
    "at that threshold; AUPRC (average precision over all {elements}) and ECE need none. {regions}"
    "The unit of replication is a seed, if all runs have one split; with several splits (folds) it "
    "is the split, and its seeds, which share their test patients, are averaged. Means ± sd and "
    "95 % t intervals are over these units and speak of further seeds (or folds) on the same "
    "patients; what other patients would have given is in the patient bootstrap. Labels are "
    "recipes, with the paper's number in brackets; 'ptq' is the trained baseline quantized without "
    "a further step, 'qad' is distilled from it, all others are trained with the recipe. Runs of "
    "equal split and seed start from the same weights and see the same images, so labels are "
    "compared within pairs; per cent of baseline is against the same split and seed. In 'a − b', "
    "positive means that a is better."
)
_OF_REGIONS = (
    "Regions overlap, and these figures are of the voxels of all of them together; each region on "
    "its own is in 'Regions', where masks are at 0.5, and Dice and HD95 are means over test cases. "
)

_ON_PATIENTS = (
    "Each label against the baseline on the same test patients, those with a lesion; every patient "
    "counts once, with the mean over the seeds (and splits) that tested it. AUPRC and F2 are "
    "primary. 'p of these networks' is Wilcoxon's over patients: it says whether the networks of "
    "this study differ on patients like these. All patients of a fold share networks, and what "
    "other training sets would give is in 'p over folds', of a mixed model with a random effect of "
    "folds: a label 'differs' if both are below 0.05, and 'differs here' if only the first is. "
    "Intervals are of the hierarchical bootstrap, which draws folds, seeds and patients; Holm's "
    f"correction is within each metric, architecture and scale; 'equivalent' is within {MARGIN}. "
    "Of 'missed', the share of patients in whom none of the lesion is found, less is better."
)


def write_report(
    path: Path,
    *,
    title: str,
    runs: "Sequence[RunResult]",
    configuration: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Mapping[str, Any]],
    expectations: Sequence[tuple[str, str, str]] = (),
    open_: Sequence[tuple[str, str]] = (),
    failures: Sequence[tuple[str, str]] = (),
    pictures: bool = True,
    patients: str | None = None,
    resamples: int = 2000,
) -> None:
    """Writes a page, ``tables/*.csv`` and ``figures/*.png`` beside it; replaces earlier ones.

    The page needs no other file and no network. Equal arguments give equal files; figures of an
    earlier report that are not drawn any more are deleted.

    Args:
        path: of the page; its folder is created.
        title: of the page.
        runs: finished runs, at most one of each label, architecture, scale, split and seed.
        configuration: of each study, by its name.
        data: what each was of, by its name.
        expectations: (name, expected, got) of what was stated in advance.
        open_: (name, status) of runs that are neither finished nor failed.
        failures: (name, error) of runs that failed.
        pictures: whether to show images of patients. They are part of the data, whose licence may
            forbid to pass them on.
        patients: where the pages of single patients begin, relative to this page.
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
    names: set[str] = set()

    def drawn(found: Iterable[drawings.Drawing]) -> str:
        return "".join(_embedded(drawing, figures, names) for drawing in found)

    sections = [
        Section("Results", headline(frames.runs, frames.relative)),
        Section("How to read this", paragraph(_reading(runs))),
        *_compared(frames, drawn(drawings.comparisons(frames.runs, frames.relative))),
        *_checks(expectations),
        *left(open_, failures),
        *_some("Scores of the test patients", drawn(drawings.curves(runs))),
        *_regions(frames),
        *_some("Training", drawn(drawings.training(runs))),
        *(_some("Predictions", drawn(drawings.predictions(runs))) if pictures else ()),
        *_some("Single patients", _single(patients) if patients else ""),
        Section("Runs", _runs(frames.runs)),
        *_some("Made with", html.pairs(made) if (made := made_with(runs)) else ""),
        *_some("Studies", _each(configuration)),
        *_some("Data", _each(data)),
    ]
    text = html.page(title, sections, _lead(runs, open_, failures))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for old in figures.glob("*.png"):
        if old.stem not in names:
            old.unlink()


def _embedded(drawing: drawings.Drawing, folder: Path, names: set[str]) -> str:
    image = png(drawing.figure)
    names.add(drawing.name)
    with replacing(folder / f"{drawing.name}.png") as temporary:
        temporary.write_bytes(image)
    return html.figure(data_url(image), drawing.caption)


def _single(target: str) -> str:
    text = html.link(target, "A page for each test patient")
    return f"<p>{text}, with the predictions of all labels; it lies beside this page.</p>"


def _each(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A part for each study."""
    parts = (html.details(name, html.pairs(record)) for name, record in records.items())
    return "".join(parts)


def _some(name: str, body: str) -> Iterator[Section]:
    if body:
        yield Section(name, body)


def _lead(
    runs: "Sequence[RunResult]",
    open_: Sequence[tuple[str, str]],
    failures: Sequence[tuple[str, str]],
) -> str:
    text = f"{len(runs)} finished run{'s' * (len(runs) > 1)}, {summary(runs)}."
    if open_:
        text += f" {len(open_)} not finished: see 'Runs not finished'."
    if failures:
        text += f" {len(failures)} failed: see 'Failed runs'."
    if open_ or failures:
        text += " Tables are of the finished ones."
    return paragraph(f"{text} {RESEARCH}")


def _reading(runs: "Sequence[RunResult]") -> str:
    task = runs[0].config.data
    volumes = any("test_regions" in run.summary for run in runs)
    best = {"min": "lowest", "max": "highest"}[task.monitor.mode]
    what = {"dice": "mean Dice"}.get(task.monitor.name, task.monitor.name)
    return _READING.format(
        monitor=f"{best} {what}",
        example="window of a volume" if volumes else "slice",
        elements="voxels" if volumes else "pixels",
        regions=_OF_REGIONS if volumes else "",
    ) + _unchosen(runs)


def _unchosen(runs: "Sequence[RunResult]") -> str:
    """Which runs could choose no threshold."""
    names = [
        run.path.name
        for run in runs
        if run.summary["threshold"] == 0.5 and not run.summary["val"].get("best_f2_score", 0) > 0
    ]
    if not names:
        return ""
    return (
        " No threshold could be chosen where validation patients have no lesion, or none of it is "
        f"found at any; it is 0.5 for {len(names)} of {len(runs)} runs: {', '.join(names)}."
    )


def _compared(frames: Frames, figures: str) -> Iterator[Section]:
    yield from _some("Comparison of recipes", figures)
    body = ""
    if len(frames.comparisons):
        body += paragraph(
            "Test AUPRC of each label against the baseline of the same split and seed; of several "
            "splits a pair is a split, with the mean over its seeds. Tests are "
            "Wilcoxon's, two-sided, with Holm's correction within each architecture and scale; "
            "'smallest p' is what the corrected p cannot fall below with so many pairs, and where "
            "that is not below 0.05 a difference is 'out of reach' of the test. Intervals are "
            f"Student's; 'equivalent' is a difference within {MARGIN}, by two one-sided tests; "
            "'detectable' is what such a study would find in 80 % of cases by Student's test, "
            "given the spread that was seen. " + stats.power_note(frames.comparisons)
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
    if len(frames.patient_comparisons):
        yield Section(
            "Patients",
            paragraph(_ON_PATIENTS) + comparisons.on_patients(frames.patient_comparisons),
        )
    if len(frames.kendall):
        note = (
            "Kendall's W says whether each seed (or split, if there are several) ranks the labels "
            "alike: 1 if all agree, about 1/n by chance. It takes two blocks at least."
        )
        yield Section("Ranks", paragraph(note) + comparisons.ranks(frames.kendall))
    if len(frames.patient_bootstrap):
        note = (
            "Hierarchical bootstrap of test AUPRC: splits are drawn anew, their seeds, and the "
            "patients of each test set. These intervals speak of other patients too, and are the "
            "ones to quote for a claim beyond this cohort. With one run only patients are drawn."
        )
        body = paragraph(note) + comparisons.patients(frames.patient_bootstrap)
        yield Section("Patient bootstrap", body)


def _checks(expectations: Sequence[tuple[str, str, str]]) -> Iterator[Section]:
    if expectations:
        rows = [[Cell(text) for text in row] for row in expectations]
        yield Section("Expected against got", html.table(["what", "expected", "got"], rows))


def _regions(frames: Frames) -> Iterator[Section]:
    if len(frames.regions):
        note = "Means ± sd over runs of the means over a run's test cases, masks at 0.5."
        yield Section("Regions", paragraph(note) + comparisons.regions(frames.regions))


def left(open_: Sequence[tuple[str, str]], failures: Sequence[tuple[str, str]]) -> list[Section]:
    """Sections about the runs that are not finished."""
    sections = []
    if open_:
        rows = [[Cell(name), Cell(status)] for name, status in open_]
        body = paragraph("Repeat the study's command to train them.")
        sections.append(Section("Runs not finished", body + html.table(["run", "status"], rows)))
    if failures:
        body = "".join(html.details(name, html.preformatted(error)) for name, error in failures)
        sections.append(Section("Failed runs", body))
    return sections


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
