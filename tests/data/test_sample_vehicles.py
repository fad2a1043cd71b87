"""The drawn sample: the same bytes each time, whole or absent, and no class told by its colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.samples import vehicles
from finetune.data.samples.camera import look, painting_order, visible_share
from finetune.data.samples.chance import uniform
from finetune.data.samples.colours import any_paints
from finetune.data.samples.solid import Part, box, prism
from finetune.errors import ResourceError, UsageError

GREY = (128.0, 128.0, 128.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "vehicles"
    assert vehicles.draw(folder, per_class=3, size=48) == sorted(p.name for p in folder.iterdir())
    return folder


def test_one_folder_per_class_light_and_heavy(drawn: Path) -> None:
    names = {p.name for p in drawn.iterdir()}
    assert {"car", "van", "bus", "lorry", "tractor", "motorcycle"} <= names
    for name in names:
        assert [p.name for p in sorted((drawn / name).iterdir())] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    for path in drawn.rglob("*.jpg"):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (48, 48))
            assert np.asarray(picture).std() > 8


def test_a_picture_depends_on_seed_class_and_index_alone(drawn: Path, tmp_path: Path) -> None:
    vehicles.draw(tmp_path / "fewer", per_class=1, size=48)
    whole = contents(drawn)
    assert len(set(whole.values())) == len(whole)
    for name, content in contents(tmp_path / "fewer").items():
        assert whole[name] == content
    vehicles.draw(tmp_path / "other", per_class=1, size=48, seed=1)
    assert not set(contents(tmp_path / "other").values()) & set(whole.values())


def test_an_empty_folder_is_filled_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    vehicles.draw(folder, per_class=1, size=32)
    assert len(contents(folder)) == len(vehicles.BUILDERS)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("how", "culprit"),
    [({"per_class": 0}, "per_class"), ({"size": 8}, "size"), ({"seed": -1}, "seed")],
)
def test_numbers_out_of_range(tmp_path: Path, how: dict[str, int], culprit: str) -> None:
    with pytest.raises(UsageError, match=culprit):
        vehicles.draw(tmp_path / "new", **how)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match="absent or empty") as caught:
        vehicles.draw(tmp_path, per_class=1, size=32)
    assert str(tmp_path) in caught.value.problems[0]
    assert contents(tmp_path) == {"photo.jpg": b"mine"}


def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="working folder"):
        vehicles.draw(Path(), per_class=1, size=32)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ResourceError("disk full")])
def test_half_a_sample_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    encoded = vehicles._encoded

    def fails_at_the_lorries(name: str, *rest: int) -> bytes:
        assert not (tmp_path / "new").exists()
        if name == "lorry":
            raise error
        return encoded(name, *rest)

    monkeypatch.setattr(vehicles, "_encoded", fails_at_the_lorries)
    with pytest.raises(type(error)):
        vehicles.draw(tmp_path / "new", per_class=1, size=32)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", vehicles.BUILDERS)
def test_every_vehicle_stands_on_the_ground_and_fills_a_fair_part_of_the_picture(name: str) -> None:
    for index in range(12):
        rng = np.random.default_rng(index)
        parts = vehicles.BUILDERS[name](rng, any_paints(rng))
        points = np.concatenate([face.points for part in parts for face in part.faces])
        assert -0.05 < points[:, 1].min() < 0.25
        camera, _ = vehicles._view(rng, parts, 128)
        flat, depth = camera.project(points)
        assert depth.min() > 0
        share = float(np.ptp(flat, axis=0).max()) / 128
        assert 0.35 < share < 1.0
        assert visible_share(parts, [], camera, 128) > 0.9


def test_colours_do_not_give_the_class_away(tmp_path: Path) -> None:
    names = vehicles.draw(tmp_path / "sample", per_class=24, size=32)
    paths = [path for name in names for path in sorted((tmp_path / "sample" / name).iterdir())]
    pictures = np.stack([np.asarray(Image.open(path), dtype=np.float64) for path in paths])
    means = pictures.mean((1, 2))
    means = (means - means.mean(0)) / means.std(0)
    labels = np.repeat(np.arange(len(names)), 24)
    # Leave one out, nearest class mean: guessing gets 1 in 8, and 192 pictures stray by 0.05 (two deviations).
    right = 0
    for i in range(len(labels)):
        rest = np.arange(len(labels)) != i
        centres = np.stack([means[rest & (labels == c)].mean(0) for c in range(len(names))])
        right += int(np.argmin(((centres - means[i]) ** 2).sum(1)) == labels[i])
    assert right / len(labels) < 0.25


def side_view(distance: float = 10.0) -> tuple[Part, Part, np.ndarray]:
    near, far = box((-1, 1), (0, 1), (1, 2), GREY), box((-1, 1), (0, 1), (-2, -1), GREY)
    return near, far, np.array([0.0, 0.5, distance])


def test_what_may_hide_another_is_painted_after_it() -> None:
    near, far, eye = side_view()
    assert painting_order([near, far], eye) == [1, 0]
    assert painting_order([far, near], eye) == [0, 1]
    assert painting_order([near, far], -eye) == [0, 1]
    overlapping = box((0, 2), (0, 2), (1.5, 2.5), GREY)
    assert painting_order([near, overlapping], eye) == [0, 1]
    assert painting_order([overlapping, near], eye) == [0, 1]


def test_visible_share_counts_what_hides_and_what_lies_outside() -> None:
    near, far, _ = side_view()
    camera = look(np.array([0.0, 0.5, 0.0]), np.pi / 2, 0.0, 0.0, 10.0)
    framed = type(camera)(camera.position, camera.axes, 200.0, (64.0, 64.0))
    assert visible_share([far], [], framed, 128) == pytest.approx(1.0)
    assert visible_share([far], [near], framed, 128) == pytest.approx(0.0)
    shifted = type(camera)(camera.position, camera.axes, 200.0, (128.0, 64.0))
    assert visible_share([far], [], shifted, 128) == pytest.approx(0.5, abs=0.08)


def test_an_outline_may_run_either_way() -> None:
    outline = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    one, other = prism(outline, 0.5, GREY), prism(outline[::-1], 0.5, GREY)
    for piece in (one, other):
        for face in piece.faces:
            normal = np.cross(face.points[1] - face.points[0], face.points[2] - face.points[0])
            assert normal @ (face.points.mean(0) - (0.5, 0.5, 0.0)) > 0


def test_uniform_is_a_plain_number() -> None:
    assert type(uniform(np.random.default_rng(0), 1.0, 2.0)) is float
