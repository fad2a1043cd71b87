"""The lessons run, print what their heads and the guides say, and draw their pictures."""

from __future__ import annotations

import io
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "examples" / "lessons").glob("[0-9]*.py"))
GUIDES = [ROOT / "docs" / "lessons.md", ROOT / "docs" / "lessons.es.md"]
NAMES = [lesson.stem for lesson in LESSONS]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
MOST_BYTES = 60_000


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures go."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def printed(drawn: Path) -> Iterator[dict[str, str]]:
    """What each lesson prints, run once as a script that draws, in this process so that torch is loaded once."""
    import torch

    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LESSONS[0].parent))
        for lesson in LESSONS:
            patch.setattr(sys, "argv", [str(lesson), "--draw", str(drawn / f"{lesson.stem}.png")])
            with redirect_stdout(io.StringIO()) as out:
                runpy.run_path(str(lesson), run_name="__main__")
            found[lesson.stem] = out.getvalue()
    sys.modules.pop("picture", None)
    yield found
    torch.set_num_threads(threads)
    torch.set_rng_state(rng)


def expected(lesson: Path) -> str:
    """The output that a lesson's head announces."""
    head = lesson.read_text("utf-8").split('"""')[1]
    return re.sub(r"^    ", "", head.partition("Expected output:\n\n")[2], flags=re.MULTILINE)


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def row(text: str, start: str) -> list[float]:
    """The numbers after `start` in the line that begins with it."""
    lines = [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
    assert len(lines) == 1, f"{len(lines)} lines begin with {start!r}"
    return numbers(lines[0])


def test_there_are_nine_lessons() -> None:
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(1, 10)]


# --- what all of them do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_lesson_prints_what_its_head_says(lesson: Path, printed: dict[str, str]) -> None:
    said, found = expected(lesson), printed[lesson.stem]
    assert said
    blank = [re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in (said, found)]
    assert blank[0] == blank[1]
    # Another processor adds in another order, so what was trained or drawn by lot may differ a little.
    assert numbers(found) == pytest.approx(numbers(said), rel=0.25, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_draws_a_small_picture(name: str, printed: dict[str, str], drawn: Path) -> None:
    file = drawn / f"{name}.png"
    assert file.stat().st_size < MOST_BYTES
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(1 << 16) or []) > 10


def test_the_command_in_a_lessons_head_is_its_own() -> None:
    for lesson in LESSONS:
        command = f"    python examples/lessons/{lesson.name} --draw docs/pictures/{lesson.stem}.png\n"
        assert command in lesson.read_text("utf-8")


def test_a_lesson_runs_as_its_head_says_and_draws_nothing_unasked(tmp_path: Path) -> None:
    command = [sys.executable, str(LESSONS[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    assert done.stdout.decode() == expected(LESSONS[0])
    assert list(tmp_path.iterdir()) == []


# --- what each of them shows ------------------------------------------------------------------------------------------


def test_two_neurons_are_one_product(printed: dict[str, str]) -> None:
    out = printed["01_two_neurons"]
    assert "w1·x + b1 = 67 + 2 = 69" in out
    assert "w2·x + b2 = 40 + 3 = 43" in out
    assert "x Wᵀ + b  = [69, 43]" in out
    assert row(out, "nn.Linear(4, 2) of x      =") == [69, 43]
    assert "7850 parameters" in out


def test_ten_answers_may_contradict_each_other_and_softmax_does_not_overflow(printed: dict[str, str]) -> None:
    out = printed["02_one_hot_softmax"]
    right, _, nobody, one, several = row(out, "one-vs-rest ")
    assert nobody + one + several == 450
    assert nobody > 0
    assert several > 0
    assert right > 85
    assert "formula   [nan, nan, nan]" in out
    assert row(out, "after taking away the largest, 1002 ") == [0.090, 0.245, 0.665]


def test_one_line_fails_on_xor_and_two_layers_do_not(printed: dict[str, str]) -> None:
    out = printed["03_perceptron_xor"]
    for name in ("perceptron on AND", "perceptron on OR", "two layers on XOR"):
        assert row(out, name)[:2] == [4, 4]
    assert "perceptron on XOR    makes mistakes in every one of 1000 epochs" in out
    assert row(out, "any line on XOR") == [3, 4]


def test_derivatives_and_the_kink(printed: dict[str, str]) -> None:
    out = printed["04_activations"]
    assert row(out, "sigmoid")[-1] == 0.25
    assert row(out, "tanh")[-1] == 1
    assert "away from the kinks: True" in out
    assert "slope 0 on the left, 1 on the right; autograd takes 0 for relu(x), 0.5 for maximum(x, 0)" in out
    names = {line.split()[0] for line in out.splitlines()}
    assert names >= {"sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "maxout"}


def test_the_gradient_vanishes_in_sigmoids_only(printed: dict[str, str]) -> None:
    out = printed["05_vanishing_gradient"]
    sigmoid, relu = row(out, "sigmoid"), row(out, "ReLU")
    assert sigmoid[4] < 1e-4
    assert 0.1 < relu[4] < 10
    assert sigmoid[5] < 50 < 85 < relu[5]


def test_backpropagation_by_hand_is_autograd(printed: dict[str, str]) -> None:
    out = printed["06_backpropagation"]
    assert "largest difference of 2410 derivatives is below 1e-15: True" in out
    by_hand, by_moving = row(out, "one weight of fc1 ")
    assert by_moving == pytest.approx(by_hand, abs=2e-8)


def test_neighbours_need_more_samples_with_every_dimension(printed: dict[str, str]) -> None:
    out = printed["07_curse_of_dimensionality"]
    near, neuron = row(out, "nearest neighbour"), row(out, "one neuron")
    assert all(later > 1.5 * before for before, later in pairwise(near))
    assert near[-1] > 50 * neuron[-1]


def test_deep_and_wide_are_equal_and_not_equally_large(printed: dict[str, str]) -> None:
    table = [numbers(line) for line in printed["08_composition"].splitlines()[1:]]
    assert len(table) > 3
    for k, slopes, _, deep, _, wide, difference in table:
        assert slopes == 2**k
        assert deep == 6 * k + 1
        assert wide == 3 * 2**k + 1
        assert difference == 0


def test_a_checkpoint_goes_on_to_the_same_bits(printed: dict[str, str]) -> None:
    out = printed["09_save_and_load"]
    assert re.search(r"everything loaded: .*True$", out, re.MULTILINE)
    assert re.search(r"only the weights loaded: .*False$", out, re.MULTILINE)
    assert re.search(r"from a checkpoint as .*True$", out, re.MULTILINE)


# --- the guides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_a_guide_walks_through_all_lessons_with_their_output(guide: Path) -> None:
    text = guide.read_text("utf-8")
    assert re.findall(r"!\[[^\]]+\]\(pictures/(\w+)\.png\)", text) == NAMES
    for lesson in LESSONS:
        assert f"python examples/lessons/{lesson.name}" in text
        assert expected(lesson) in text


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_what_a_guide_links_to_is_there(guide: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", guide.read_text("utf-8"))
    assert len(targets) > len(LESSONS)
    assert [target for target in targets if not (guide.parent / target).exists()] == []


def test_the_pictures_of_the_guides_are_small() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").glob("[0-9]*.png"))
    assert [picture.stem for picture in pictures] == NAMES
    assert [picture.name for picture in pictures if picture.stat().st_size >= MOST_BYTES] == []
