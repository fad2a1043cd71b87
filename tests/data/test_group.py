"""Groups stay in one split: by a pattern, by folder, by a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.folder import ImageFolder
from finetune.data.group import groups_of, units_of
from finetune.data.split import split
from finetune.errors import DataError, UsageError
from tests import makers


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Two classes of 8 patients with 4 images each."""
    for label, name in enumerate(("ill", "well")):
        for patient in range(8):
            for shot in range(4):
                seed = label * 1000 + patient * 10 + shot
                makers.put(tmp_path / f"d/{name}/patient{label}{patient}_{shot}.jpg", makers.jpeg(seed))
    return tmp_path / "d"


def splits_by_patient(table: pd.DataFrame) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path, part in zip(table["path"], table["split"], strict=True):
        found.setdefault(path.split("/")[-1].split("_")[0], set()).add(part)
    return found


def test_a_pattern_keeps_groups_in_one_split(patients: Path) -> None:
    data = ImageFolder(patients, group="(patient[0-9]+)_").split(0.25, 0.25)
    assert all(len(parts) == 1 for parts in splits_by_patient(data.table).values())
    assert {name: len(part) for name, part in data.parts()} == {"train": 32, "val": 16, "test": 16}
    loose = ImageFolder(patients).split(0.25, 0.25)
    assert any(len(parts) > 1 for parts in splits_by_patient(loose.table).values())


def test_a_table_and_folders_group_too(patients: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(patients).as_posix() for path in patients.rglob("*.jpg"))
    rows = [f"{path},{path.split('/')[1].split('_')[0]}" for path in paths]
    (tmp_path / "g.csv").write_text("\n".join(["path,group", *rows]))
    by_table = groups_of(paths, str(tmp_path / "g.csv"), patients)
    assert by_table == [f"group {row.split(',')[1]}" for row in rows]
    assert groups_of(["a/b/1.jpg", "a/c/2.jpg"], "folder", patients) == ["folder a/b", "folder a/c"]


def test_groups_that_group_nothing_are_refused(patients: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="groups none of 64 images"):
        ImageFolder(patients, group="(video[0-9]+)").split()
    with pytest.raises(UsageError, match="no regular expression"):
        ImageFolder(patients, group="(").split()
    with pytest.raises(DataError, match="no such file"):
        ImageFolder(patients, group="gone.csv").split()
    with pytest.raises(DataError, match="a single group"):
        ImageFolder(patients, group="folder").split()


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=12, max_size=60),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_group_and_no_content_is_ever_divided(images: list[tuple[int, int]], seed: int) -> None:
    hashes = [f"{content:064x}" for content, _ in images]
    groups = [f"g{group}" for _, group in images]
    units = units_of(hashes, groups)
    if len(set(units)) < 2:
        return
    table = pd.DataFrame({"class": "a", "sha256": hashes})
    parts = split(table, 0.2, 0.2, seed, units)
    for names in (hashes, groups):
        assert pd.DataFrame({"name": names, "split": list(parts)}).groupby("name")["split"].nunique().max() == 1
    assert {"train", "val"} <= set(parts)
