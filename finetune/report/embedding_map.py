"""The evaluated images on a plane, as the network sees them: near together is alike. Hover shows the picture.

The plane is that of UMAP where `umap-learn` is installed, else the one that the vectors, brought to length one, spread
over most (the first two principal components); the map says which.
No script: a picture lies hidden beside its point, and shows while the pointer or the focus is on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from finetune.files import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT, PANEL, MARGIN = 640.0, 400.0, 150.0, 14.0
NEIGHBOURS = 15
"""That UMAP looks at, its authors' default."""
NAMED = 24
"""Classes that the legend names at most."""

STYLE = Markup(
    "<style>.spot>.preview{{visibility:hidden;pointer-events:none}}"
    ".spot:hover>.preview,.spot:focus>.preview{{visibility:visible}}.spot{{outline:none}}"
    ".spot circle{{stroke:var(--paper,#fff);stroke-width:.6}}.spot.miss circle{{stroke:currentColor;stroke-width:1.8}}"
    ".spot text,.legend text{{font-size:11px;fill:currentColor}}</style>"
)


def laid_out(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """Vectors on a plane: points float64 [N, 2] for vectors [N, D], and how they were laid out, in words.

    UMAP (McInnes et al. 2018) keeps neighbours together, with the settings of its authors and a fixed seed, by the
    angle between vectors; it needs more points than the 15 neighbours that it looks at.
    """
    if len(vectors) > NEIGHBOURS and find_spec("umap") is not None:
        umap = import_module("umap")
        layout = umap.UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=0, n_jobs=1)
        points = np.asarray(layout.fit_transform(vectors), dtype=np.float64)
        return points, "laid out by UMAP, which keeps neighbours together"
    points, share = plane(vectors)
    return points, f"on their first two principal components ({100 * share:.0f} % of the variance)"


def plane(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """The first two principal components of vectors brought to length one.

    Args:
        vectors: [N, D].

    Returns:
        Points float64 [N, 2], and the share of the variance that they keep.
    """
    rows = vectors.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows -= rows.mean(axis=0)
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    points = np.zeros((len(rows), 2))
    kept = min(2, len(sizes))
    points[:, :kept] = left[:, :kept] * sizes[:kept]
    total = float((sizes**2).sum())
    return points, float((sizes[:kept] ** 2).sum()) / total if total > 0 else 1.0


def embedding_map(
    vectors: NDArray[np.float32],
    labels: Sequence[int],
    predicted: Sequence[int],
    names: Sequence[str],
    classes: Sequence[str],
    pictures: Mapping[int, str],
) -> Markup:
    """The map as inline SVG, with its legend and caption: a point an image in its class's colour, mistakes ringed.

    Args:
        vectors: [N, D].
        labels: place of each image's class in `classes`, N of them.
        predicted: what it was taken for; below 0 where there was no answer.
        names: of the images.
        classes: their names.
        pictures: place in `names` → `data:` address.
    """
    points, how = laid_out(vectors)
    low, spread = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-12)
    room = np.array([WIDTH - PANEL - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    placed = MARGIN + (points - low) / spread * room
    colours = _colours(len(classes))
    order = sorted(range(len(names)), key=lambda i: labels[i] != predicted[i])  # mistakes are drawn last, on top
    spots = Markup("").join(
        _spot(placed[i], colours[labels[i]], names[i], *_words(labels[i], predicted[i], classes), pictures.get(i, ""))
        for i in order
    )
    legend = Markup("").join(
        Markup('<text x="{:.0f}" y="{:.0f}"><tspan fill="{}">●</tspan> {}</text>').format(
            WIDTH - PANEL + 8, 150 + 15 * line, colours[place], _short(classes[place])
        )
        for line, place in enumerate(sorted(set(labels))[: min(NAMED, int((HEIGHT - 160) / 15))])
    )
    return Markup(
        '<svg viewBox="0 0 {w:.0f} {h:.0f}" role="img" aria-label="Map of the images {how}">'
        '{style}<g class="legend">{legend}</g>{spots}</svg><figcaption>The points are {how}.</figcaption>'
    ).format(w=WIDTH, h=HEIGHT, how=how, style=STYLE.format(), legend=legend, spots=spots)


def _spot(at: NDArray[np.float64], colour: str, name: str, said: str, miss: bool, picture: str) -> Markup:
    left = WIDTH - PANEL + 8
    image = Markup('<image href="{}" x="{:.0f}" y="8" width="112" height="96"/>').format(picture, left)
    lines = Markup('<text x="{x:.0f}" y="118">{a}</text><text x="{x:.0f}" y="132">{b}</text>').format(
        x=left, a=_short(name.rpartition("/")[2]), b=_short(said)
    )
    return Markup(
        '<g class="spot{}" tabindex="0"><title>{}: {}</title><circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}"/>'
        '<g class="preview">{}{}</g></g>'
    ).format(
        " miss" if miss else "", visible(name), visible(said), at[0], at[1], 5 if miss else 4, colour,
        image if picture else "", lines,
    )  # fmt: skip


def _words(label: int, predicted: int, classes: Sequence[str]) -> tuple[str, bool]:
    if label == predicted:
        return classes[label], False
    taken = f"taken for {classes[predicted]}" if predicted >= 0 else "no answer"
    return f"{classes[label]}, {taken}", True


def _short(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= 22 else shown[:21] + "…"


def _colours(count: int) -> list[str]:
    """Colours that can be told apart as far as there are so many; light and dark take turns."""
    return [f"hsl({360 * i / max(1, count):.0f} 70% {(42, 60)[i % 2]}%)" for i in range(count)]
