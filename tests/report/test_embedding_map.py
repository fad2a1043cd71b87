"""The map of the evaluated images: near is alike, every name is escaped, mistakes are marked and never left out."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from finetune.deliver.image_map import chosen
from finetune.report.embedding_map import embedding_map, laid_out, plane


def test_the_plane_keeps_what_lies_in_a_plane() -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 1, 50)
    vectors = np.stack([np.cos(angle), np.sin(angle), np.zeros(50)], axis=1).astype(np.float32)
    points, share = plane(vectors * rng.uniform(1, 9, (50, 1)).astype(np.float32))  # lengths do not count
    assert share == pytest.approx(1.0)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(apart, np.linalg.norm(vectors[:, None] - vectors[None], axis=2), atol=1e-5)
    assert plane(np.ones((4, 3), np.float32))[1] == 1.0


def test_the_map_is_sound_svg_with_a_picture_for_each_point() -> None:
    names = ["a/<x>.jpg", "b/2.jpg", "b/3.jpg"]
    classes = ["<script>alert(1)</script>", "b"]
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    pictures = {0: "data:image/jpeg;base64,AAAA", 1: "data:image/jpeg;base64,BBBB"}
    svg = embedding_map(vectors, [0, 1, 1], [0, 1, 0], names, classes, pictures)
    drawing, _, caption = str(svg).partition("<figcaption>")
    assert "principal components" in caption
    root = ET.fromstring(drawing)
    space = root.tag.removesuffix("svg")
    spots = [node for node in root.iter(f"{space}g") if (node.get("class") or "").startswith("spot")]
    assert [node.get("class") for node in spots] == ["spot", "spot", "spot miss"]
    assert len(list(root.iter(f"{space}image"))) == 2
    assert "taken for <script>" in "".join(spots[-1].itertext())
    assert "<script" not in str(svg)


def test_umap_lays_the_points_out_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    class UMAP:
        def __init__(self, **settings: object) -> None:
            asked.append(settings)

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            return vectors[:, :2]

    monkeypatch.setitem(sys.modules, "umap", ModuleType("umap"))
    sys.modules["umap"].__dict__.update(UMAP=UMAP, __spec__=ModuleSpec("umap", None))
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    points, how = laid_out(vectors)
    np.testing.assert_array_equal(points, vectors[:, :2].astype(np.float64))
    assert "UMAP" in how
    assert asked[0]["random_state"] == 0, "the same page for the same run"
    assert "principal components" in laid_out(vectors[:15])[1], "too few points for UMAP"


def test_mistakes_come_first_but_not_alone() -> None:
    wrong = np.zeros(1000, dtype=bool)
    wrong[::3] = True
    places = chosen(wrong, 100)
    assert len(places) == 100 == len(set(places))
    assert sum(wrong[places]) == 50
    assert chosen(np.array([True, False]), 100) == [0, 1]
    assert chosen(np.zeros(0, dtype=bool), 100) == []
