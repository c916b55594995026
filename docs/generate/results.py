"""Tables of docs/results.md, from the CSV files that the commands named there have written.

The page has ``<!-- NAME -->`` where a table begins and ``<!-- end -->`` behind it.
"""

import csv
import re
from pathlib import Path

PAGE = "docs/results.md"
_MODELS = {"cnn": "CNN", "vit": "ViT", "swin": "Swin"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def lgg_128(folder: Path) -> str:
    header = [
        "model",
        "best epoch, from 0",
        "minutes",
        "test AUPRC",
        "validation AUPRC",
        "Dice per patient",
    ]
    return table(
        header,
        [
            [
                _MODELS[row["arch"]],
                row["best_epoch"],
                f"{float(row['train_seconds']) / 60:.0f}",
                *(f"{float(row[name]):.3f}" for name in ("test_auprc", "val_auprc")),
                f"{float(row['test_hard_dice_patient_at_best']):.3f}",
            ]
            for row in rows(folder / "lgg_128.csv")
        ],
    )


def _by_label(folder: Path, metric: str) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows(folder / "summary.csv"):
        if row["metric"] == metric:
            found.setdefault(row["arch"], {})[row["label"]] = row
    return found


def lgg_64(folder: Path) -> str:
    """Mean test AUPRC of each recipe, with its per cent of the baseline's of the same seeds."""
    by_model = _by_label(folder / "lgg_64", "test_auprc")
    labels = list(dict.fromkeys(label for found in by_model.values() for label in found))
    percent: dict[tuple[str, str], list[float]] = {}
    for row in rows(folder / "lgg_64" / "relative.csv"):
        percent.setdefault((row["arch"], row["label"]), []).append(float(row["percent"]))
    body = []
    for label in labels:
        line = [f"`{label}`"]
        for model in by_model:
            of = percent[model, label]
            mean = float(by_model[model][label]["mean"])
            line.append(f"{mean:.3f} ({sum(of) / len(of):.1f}%)")
        body.append(line)
    return table(["recipe", *(_MODELS[model] for model in by_model)], body)


def keep_lists(folder: Path) -> str:
    found = rows(folder / "keep_lists" / "full.csv")
    header = list(found[0])[:-1]
    return table(header, [[_MODELS.get(row[name], row[name]) for name in header] for row in found])


def attention(folder: Path) -> str:
    (by_label,) = _by_label(folder / "attention_demo", "test_auprc").values()
    body = [
        [f"`{label}`", row["n"], f"{float(row['mean']):.3f}", f"{float(row['sd']):.3f}"]
        for label, row in by_label.items()
    ]
    return table(["recipe", "seeds", "mean test AUPRC", "standard deviation"], body)


TABLES = {
    "lgg 128": lgg_128,
    "lgg 64": lgg_64,
    "keep lists": keep_lists,
    "attention": attention,
}


def filled(page: str, folder: Path) -> str:
    """The page with its tables as the files have them."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{TABLES[match[1]](folder)}\n\n<!-- end -->"

    return re.sub(r"<!-- (?!end)([\w ]+) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)
