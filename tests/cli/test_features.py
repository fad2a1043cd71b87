"""`finetune features`, and what a run's own report shows of it; in this process, as torch is slow to load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from finetune.cli.main import main
from finetune.runs.reporter import Reporter
from finetune.story.run import run
from tests import makers


@dataclass
class Place:
    """A working folder with a finished run in `o` and a picture, `bee.jpg`."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        streams = self.capture.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, streams.out, streams.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    monkeypatch.chdir(tmp_path)
    makers.class_folders(tmp_path / "images", {"ant": 8, "bee": 8, "cat": 8})
    makers.put(tmp_path / "bee.jpg", makers.jpeg(77))
    given = {
        "data": {"folder": "images", "split": {"val": 0.25, "test": 0.25}},
        "model": {"backbone": "timm/test_resnet", "weights": "none", "preprocess": {"size": 32}},
        "train": {"epochs": 2, "batch_size": 4, "device": "cpu"},
    }
    run(given, out="o", reporter=Reporter(say=lambda text: None, progress=lambda what, done, total: None))
    return Place(tmp_path, capsys)


def test_a_picture_and_its_figures(place: Place) -> None:
    code, out, err = place.call("features", "o", "bee.jpg")
    assert code == 0, err
    assert out.rstrip().endswith("picture: features.png")
    first = (place.folder / "features.png").read_bytes()
    Image.open(place.folder / "features.png").verify()

    code, out, err = place.call("features", "o/model", "bee.jpg", "--out", "new/b.png", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [row["group"] for row in found["groups"]] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert [found["groups"][place]["shape"] for place in (0, -1)] == [[32, 8, 8], [3]]
    assert (place.folder / "new" / "b.png").read_bytes() == first

    (predicted,) = json.loads(place.call("predict", "o", "bee.jpg", "--json")[1])["predictions"]
    assert found["label"] == predicted["label"]
    assert found["confidence"] == pytest.approx(predicted["confidence"], abs=1e-4)


def test_nothing_is_overwritten_unless_asked(place: Place) -> None:
    target = makers.put(place.folder / "features.png", b"mine")
    code, _, err = place.call("features", "o", "bee.jpg")
    assert code == 2
    assert "features.png: already exists" in err
    assert "--force" in err
    assert target.read_bytes() == b"mine"
    assert place.call("features", "o", "bee.jpg", "--force")[0] == 0
    Image.open(target).verify()


def test_what_cannot_be_drawn_is_named(place: Place) -> None:
    makers.put(place.folder / "text.jpg", b"no image")
    for name in ("text.jpg", "nowhere.jpg", "images"):
        code, _, err = place.call("features", "o", name)
        assert code == 3
        assert err.startswith(f"error: {name}: ")
    assert place.call("features", "o", "bee.jpg", "--out", "c.jpg")[0] == 2
    assert place.call("features", "nowhere", "bee.jpg")[0] == 2
    assert not (place.folder / "features.png").exists()


def test_the_report_of_a_run_shows_both(place: Place) -> None:
    page = (place.folder / "o" / "report" / "report.html").read_text("utf-8")
    assert "What the layers see" in page
    assert "Where the gradient goes" in page
    assert "http-equiv" in page
    assert 'src="data:image/png' in page
    Image.open(place.folder / "o" / "report" / "features.png").verify()
