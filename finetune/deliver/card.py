"""The model card, `README.md` of a bundle: what the model is, how good, where it comes from, and what it is not for.

Its head is the YAML that the Hugging Face hub reads, written by their library, so that a pushed bundle is found and
shown as what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from huggingface_hub import EvalResult, ModelCardData

from finetune.data.preprocess import Preprocess
from finetune.files import escape_html, write_text
from finetune.model.bundle import save_bundle
from finetune.model.bundle_files import CARD
from finetune.model.lineage import UNKNOWN, licence_of, short_path
from finetune.model.network import Network
from finetune.report.tables import worst_first

WORST = 5
"""Classes that are listed, the worst first."""

HUB_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "unknown"),
}
"""Identifiers of licences that the hub knows; any other is `other`, with its name."""

_SPECIAL = re.compile(r"[|\[\]*_`~\\]")


@dataclass(frozen=True)
class Facts:
    """What a run knows of its model.

    Attributes:
        name: of the run.
        images: the table of all images: columns class and split.
        metrics: the content of `metrics.json`.
        recipe: the resolved recipe.
        best: which epoch was kept: {"epoch", …}; None where nothing was chosen.
        warnings: that a user of the model should know.
        versions: of the libraries.
    """

    name: str
    images: pd.DataFrame
    metrics: Mapping[str, Any]
    recipe: Mapping[str, Any]
    best: Mapping[str, Any] | None
    warnings: Sequence[str]
    versions: Mapping[str, str]


def write_card(folder: Path, network: Network, facts: Facts | None = None) -> Path:
    """Publish the card of the bundle in `folder`.

    Args:
        folder: of the bundle.
        network: which lies there.
        facts: of the run; None for a bundle that was saved from a script, of which less is known.
    """
    parts = [f"---\n{front_matter(network, facts)}\n---", *_sections(network, facts)]
    write_text(folder / CARD, "\n\n".join(part for part in parts if part) + "\n")
    return folder / CARD


def save_with_card(folder: Path, network: Network) -> Path:
    """Publish a network that no run has made as a bundle with its card; returns the folder."""
    save_bundle(folder, network, {})
    write_card(folder, network)
    return folder


def front_matter(network: Network, facts: Facts | None) -> str:
    """The YAML between the two lines of dashes."""
    licence = licence_of(network.base)
    known = licence is None or licence.lower() in HUB_LICENCES
    repositories = [one.source.partition(" on the Hugging Face hub")[0] for one in _chain(network)]
    data = ModelCardData(
        license=(licence.lower() if licence and known else "other" if licence else None),
        license_name=None if known or licence is None else re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-"),
        library_name="finetune-toolkit",
        pipeline_tag="image-classification",
        tags=["image-classification", "pytorch", network.architecture.partition("/")[0]],
        base_model=next((name for name in repositories if re.fullmatch(r"[\w.-]+/[\w.-]+", name)), None),
        model_name=facts.name if facts else None,
        eval_results=_results(facts) if facts else None,
    )
    return data.to_yaml().strip()


def _results(facts: Facts) -> list[EvalResult]:
    split = str(facts.metrics["split"])
    rates = (("accuracy", "accuracy", "Accuracy"), ("macro_f1", "f1", "Macro F1"))
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name=facts.name,
            dataset_split=split,
            metric_type=kind,
            metric_name=name,
            metric_value=facts.metrics[key],
        )
        for key, kind, name in rates
        if facts.metrics.get(key) is not None
    ]


def _sections(network: Network, facts: Facts | None) -> Iterable[str]:
    names = ", ".join(plain(name) for name in network.classes)
    title = facts.name if facts else network.architecture
    yield f"# {plain(title)}"
    yield f"Tells {len(network.classes)} kinds of pictures apart: {names}."
    if facts:
        yield _data(facts)
        yield _figures(facts.metrics)
        yield _selection(network, facts)
    yield _origin(network)
    yield _input(network.preprocess)
    yield _limits(network, facts)
    yield _use()
    if facts:
        yield _made(facts)


def _data(facts: Facts) -> str:
    counts = pd.crosstab(facts.images["class"], facts.images["split"])
    splits = [name for name in ("train", "val", "test") if name in counts.columns]
    rows = [[plain(str(name)), *(str(counts.loc[name, split]) for split in splits)] for name in counts.index]
    total = ["all", *(str(int(counts[split].sum())) for split in splits)]
    return f"## What it was trained on\n\n{_table(['class', *splits], [*rows, total])}"


def _figures(metrics: Mapping[str, Any]) -> str:
    if not metrics["n"]:
        return "## How good it is\n\nThere was no image to measure it on."
    where = {
        "test": "test images, which neither training nor selection has seen",
        "val": "validation images, which also chose the epoch, so the figures flatter",
        "out_of_fold": "images, each answered by a head that had not seen it",
    }.get(str(metrics["split"]), "images")
    lines = [f"On {metrics['n']:,} {where}:", ""]
    for key, name in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        interval = metrics.get(f"{key}_ci95")
        between = f" (95% interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        lines.append(f"- {name} {_number(metrics[key])}{between}")
    evaluated = [row for row in metrics["per_class"] if row["support"]]
    rows = [
        [plain(row["class"]), str(row["support"]), *(_between(row, key) for key in ("f1", "precision", "recall"))]
        for row in worst_first(evaluated)[:WORST]
    ]
    table = _table(["class", "images", "F1", "precision", "recall"], rows)
    return "## How good it is\n\n" + "\n".join(lines) + f"\n\nThe worst classes, with 95% intervals:\n\n{table}"


def _between(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return _number(row[key]) + (f" ({low:.2f}–{high:.2f})" if low is not None and high is not None else "")


def _selection(network: Network, facts: Facts) -> str:
    train = facts.recipe["train"]
    kept = f"Epoch {facts.best['epoch'] + 1} of {train['epochs']}" if facts.best else "The last state"
    text = f"## How it was selected\n\n{kept} was kept, by `{train['select']}` on the validation images."
    if network.temperature != 1:
        text += f" Its logits are divided by {network.temperature:.3f}, fitted there, before they become probabilities."
    return text


def _chain(network: Network) -> list[Any]:
    return [] if network.base is None else list(network.base.chain())


def _origin(network: Network) -> str:
    heading = f"## Where its weights come from\n\nArchitecture: `{network.architecture}`"
    if network.options:
        heading += f", options `{dict(network.options)}`"
    chain = _chain(network)
    if not chain:
        return f"{heading}. Trained from scratch, without weights of others."
    lines = [
        f"{number}. {plain(one.name)}: {plain(one.source or 'no source given')}; licence: {plain(one.licence)}"
        + (f"; sha256 `{one.sha256}`" if one.sha256 else "")
        for number, one in enumerate(chain, 1)
    ]
    licence = licence_of(network.base)
    claim = f"This model claims no looser licence than these: {plain(licence or UNKNOWN)}."
    if licence == UNKNOWN:
        claim = "The licence of the base is unknown, and so is that of this model: ask before you pass it on."
    return f"{heading}, started from:\n\n" + "\n".join(lines) + f"\n\n{claim}"


def _input(preprocess: Preprocess) -> str:
    rows = [[key, f"`{value}`"] for key, value in preprocess.as_dict().items()]
    return f"## What it expects of a picture\n\n{_table(['preprocessing', 'value'], rows)}"


def _limits(network: Network, facts: Facts | None) -> str:
    lines = [
        f"It always answers with one of its {len(network.classes)} classes, also for a picture of something else.",
        "Its figures hold for pictures like those it was trained on; with other cameras or places it may do worse.",
        "It has not been examined for fairness between groups of people; it is not meant for decisions about people.",
    ]
    few = [row["class"] for row in facts.metrics["per_class"] if 0 < row["support"] < 20] if facts else []
    if few:
        lines.append(f"Too few images to trust the figures of: {', '.join(plain(name) for name in few)}.")
    lines += [plain(line) for line in (facts.warnings if facts else ())]
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _use() -> str:
    return (
        "## How to use it\n\n```python\nimport finetune as ft\n\n"
        'classifier = ft.load("FOLDER")\nprint(classifier.predict("picture.jpg").label)\n```'
    )


def _made(facts: Facts) -> str:
    recipe = {**facts.recipe}
    for section, key in (("data", "folder"), ("model", "backbone"), ("model", "weights")):
        if given := recipe[section].get(key):
            recipe[section] = {**recipe[section], key: short_path(str(given))}
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).replace("```", "'''")
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return f"## How it was made\n\n`finetune run recipe.yaml` with {plain(versions)} and\n\n```yaml\n{text}```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def plain(text: str) -> str:
    """Text that Markdown shows as it is: no character of it marks up, links or ends a cell."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", escape_html(text))
