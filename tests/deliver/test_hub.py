"""Models on the hub: pushed, read, refused; against a server that speaks the hub's HTTP interface."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import finetune
from finetune.cli.main import main
from finetune.deliver.hub import files_of, push
from finetune.errors import ArtefactError, FinetuneError, ResourceError, UsageError
from finetune.files import cache_folder, sha256_file
from finetune.model.hub import Repository, local_path, on_hub, shown
from tests import makers
from tests.hub_server import READER, WRITER, Hub, serving

GUIDE = Path(__file__).parents[2] / "docs" / "hub.md"
CLASSES = ["ant", "bee"]
# huggingface_hub sends files in a way that its HTTP library calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
BUNDLE = {"model.json", "model.safetensors", "README.md"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub, a token that may write, and nothing of this user's."""
    with serving() as found:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the stand-in speaks Git LFS
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        for name in ("HF_TOKEN_PATH", "AGENT_HARNESSES_PATH"):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / "home" / name))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("no_proxy", "*")
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of which only the model is there; its weights are drawn."""
    torch.manual_seed(0)
    options = {"preprocess": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}, "device": "cpu"}
    classifier = finetune.Classifier("timm/test_resnet", CLASSES, weights="none", **options)
    for name, parameter in classifier.network.module.named_parameters():
        if classifier.network.head in name:
            torch.nn.init.normal_(parameter, std=2.0)
    run = tmp_path_factory.mktemp("made") / "001"
    classifier.save(run / "model")
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    folder = tmp_path / "runs" / "bugs" / "001"
    shutil.copytree(made, folder)
    return folder


def content(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "model").iterdir()}


def with_export(run: Path, name: str = "onnx") -> Path:
    """Put an export into the run as `finetune export` leaves one; what is in its network is of no account here."""
    file = makers.put(run / "export" / name / "network.onnx", b"a network")
    sha256 = json.loads((run / "model" / "model.json").read_text())["weights_sha256"]
    record = {"files": {file.name: {"sha256": sha256_file(file)}}, "weights_sha256": sha256}
    makers.put(file.with_name("export.json"), json.dumps(record).encode())
    return file


def code_of(*arguments: str) -> int:
    """The exit code of the command line, run in this process."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


# --- the guide -------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_guide(hub: Hub, run: Path, tmp_path: Path, cli, monkeypatch, capsys) -> None:
    one = makers.put(tmp_path / "one.jpg", makers.jpeg(1))
    for label in CLASSES:
        for number in range(4):
            makers.put(tmp_path / "images" / label / f"{number}.jpg", makers.jpeg(number + 10 * len(label + "x")))
    label = finetune.load(run / "model").predict(one).label
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for language, text in found if language == "bash" for line in text.splitlines()]
    assert commands[0][:2] == ["finetune", "push"]
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": None, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    done = cli(*commands[0][1:], "--private", "--json", env=env)
    assert done.rc == 0, done.err
    pushed = json.loads(done.out)
    assert pushed["url"] == f"{hub.url}/ada/bugs"
    assert pushed["commit"] == hub.repos["ada/bugs"].commits[-1][0]
    assert {name: hub.files("ada/bugs")[name] for name in pushed["files"]} == content(run)
    assert hub.repos["ada/bugs"].private
    monkeypatch.chdir(tmp_path)
    said = {}
    for command in commands[1:]:
        assert code_of(*command[1:]) == 0, command
        said[command[1]] = capsys.readouterr().out
    assert label in said["predict"]
    assert (tmp_path / "bugs-torch" / "export.json").is_file()
    (python,) = [text for language, text in found if language == "python"]
    exec(compile(python, GUIDE, "exec"), {})
    assert capsys.readouterr().out.strip() == label
    shutil.copytree(tmp_path / "bugs-torch", run / "export" / "torch")  # a real export is one that can be pushed
    assert "export/torch/export.json" in files_of(run)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_three_files_are_read_into_our_cache_and_used_without_a_network(hub: Hub, run: Path, monkeypatch) -> None:
    hub.put("ada/bugs", {**content(run), "pytorch_model.bin": b"a pickle", "code.py": b"raise SystemExit(1)"})
    weights = finetune.load("hf://ada/bugs").network.module.state_dict()
    assert all(
        torch.equal(weights[key], value)
        for key, value in finetune.load(run / "model").network.module.state_dict().items()
    )
    read = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert read == BUNDLE
    kept = {path.name for path in (cache_folder() / "hub").rglob("snapshots/*/*")}
    assert kept == BUNDLE
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert finetune.load("hf://ada/bugs").classes == CLASSES
    assert hub.asked == []


def test_a_commit_stays_what_it_was(hub: Hub, run: Path) -> None:
    first = hub.put("ada/bugs", content(run))
    description = json.loads(content(run)["model.json"]) | {"temperature": 3.0}
    second = hub.put("ada/bugs", {"model.json": json.dumps(description).encode()})
    assert finetune.load("hf://ada/bugs").network.temperature == 3.0
    assert finetune.load(f"hf://ada/bugs@{first}").network.temperature == 1.0
    assert local_path(Path("hf://ada/bugs"), fetch=False).name == second


def test_weights_that_are_not_those_of_the_description_are_refused(hub: Hub, run: Path) -> None:
    weights = content(run)["model.safetensors"]
    hub.put("ada/bugs", {**content(run), "model.safetensors": weights[:-1] + bytes([weights[-1] ^ 1])})
    with pytest.raises(ArtefactError, match="sha256"):
        finetune.load("hf://ada/bugs")
    with pytest.raises(ArtefactError, match="sha256"):
        finetune.Classifier("hf://ada/bugs", ["x", "y"])


def test_as_a_backbone_it_brings_its_weights_and_is_named_in_the_lineage(hub: Hub, run: Path) -> None:
    hub.put("ada/bugs", content(run))
    network = finetune.Classifier("hf://ada/bugs", ["x", "y", "z"]).network
    before = finetune.load(run / "model").network
    own, given = network.module.state_dict(), before.module.state_dict()
    same = [key for key in own if own[key].shape == given[key].shape and torch.equal(own[key], given[key])]
    assert set(given) - set(same) == {name for name in given if name.startswith(before.head)}
    assert network.base is not None
    assert network.base.name == "hf://ada/bugs"
    assert network.base.sha256 == sha256_file(run / "model" / "model.safetensors")


def test_its_vectors_fill_a_store_and_its_neighbours_vote(hub: Hub, run: Path, tmp_path: Path, capsys) -> None:
    hub.put("ada/bugs", content(run))
    images = makers.class_folders(tmp_path / "images", {"ant": 3, "bee": 3})
    store, done = finetune.embed("hf://ada/bugs", images, tmp_path / "store")
    assert (done.new, store.model) == (6, "hf://ada/bugs")
    assert code_of("predict", "hf://ada/bugs", str(images), "--knn", str(store.path), "--json") == 0
    assert [row["error"] for row in json.loads(capsys.readouterr().out)["predictions"]] == [None] * 6
    assert code_of("search", str(store.path), str(images / "ant" / "000.jpg"), "-k", "1") == 0, "by the store's model"


@pytest.mark.parametrize(
    ("name", "token", "kind", "words"),
    [
        ("hf://ada/none", READER, UsageError, "no such repository"),
        ("hf://ada/none", "", ResourceError, "HF_TOKEN"),
        ("hf://ada/secret", "", ResourceError, "HF_TOKEN"),
        ("hf://ada/pictures", "", UsageError, "not a model bundle"),
        ("hf://ada/half", "", UsageError, "not a model bundle"),
        ("hf://ada/half@v2", "", UsageError, "no such branch"),
    ],
)
def test_what_cannot_be_read_is_said(
    hub: Hub, monkeypatch, name: str, token: str, kind: type[FinetuneError], words: str
) -> None:
    hub.put("ada/secret", {"model.json": b"{}"}, private=True)
    hub.put("ada/pictures", {"a.png": b""})
    hub.put("ada/half", {"model.json": b"{}"})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(kind, match=words):
        finetune.load(name)


def test_offline_and_not_in_the_cache(hub: Hub, run: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (lambda: finetune.load("hf://ada/bugs"), lambda: push(run, "ada/bugs")):
        with pytest.raises(ResourceError, match="HF_HUB_OFFLINE") as caught:
            ask()
        assert caught.value.exit_code == 6
    assert hub.asked == []


def test_without_the_package(hub: Hub, run: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: finetune.load("hf://ada/bugs"), lambda: push(run, "ada/bugs")):
        with pytest.raises(ResourceError) as caught:
            ask()
        assert "pip install 'finetune-toolkit[hub]'" in caught.value.remedy


# --- names -----------------------------------------------------------------------------------------------------------


NO_NAMES = ["bugs", "ada/", "/bugs", "ada/bugs/x", "ada/../x", "ada/b--c", "ada/-b", "ada/b.git", "a b/c", "ada/é"]
NO_NAMES += ["ada/b\n", "ada/bugs@", "ada/bugs@../x", f"ada/{'x' * 96}", ""]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_none_is_refused_before_anything_is_asked(hub: Hub, run: Path, name: str) -> None:
    for ask in (lambda: finetune.load(f"hf://{name}"), lambda: push(run, name)):
        with pytest.raises(UsageError, match="hf://ada/vehicles"):
            ask()
    assert hub.asked == []


def test_a_name_survives_being_a_path() -> None:
    assert on_hub(Path("hf://ada/bugs@v1.0")) == Repository("ada", "bugs", "v1.0")
    assert shown(Path("hf://ada/bugs")) == "hf://ada/bugs"
    assert on_hub(Path("runs/bugs/001")) is None
    assert shown(Path("runs/bugs/001")) == "runs/bugs/001"


# --- pushing ---------------------------------------------------------------------------------------------------------


def test_exports_come_along_and_go_when_they_are_gone(hub: Hub, run: Path) -> None:
    with_export(run)
    makers.put(run / "export" / "onnx" / "left.tmp", b"of a process that was killed")
    first = push(run, "hf://ada/bugs")
    exports = {"export/onnx/network.onnx", "export/onnx/export.json"}
    assert set(hub.files("ada/bugs")) == {".gitattributes", *BUNDLE, *exports}
    assert set(first.files) == BUNDLE | exports
    hub.put("ada/bugs", {"notes.txt": b"by hand"})
    shutil.rmtree(run / "export")
    second = push(run, "ada/bugs")
    assert second.removed == sorted(exports)
    assert set(hub.files("ada/bugs")) == {".gitattributes", *BUNDLE, "notes.txt"}


@pytest.mark.parametrize("harm", ["weights", "export", "other network"])
def test_what_is_not_whole_is_not_pushed(hub: Hub, run: Path, harm: str) -> None:
    file = with_export(run)
    if harm == "weights":
        file = run / "model" / "model.safetensors"
    if harm == "other network":
        file = file.with_name("export.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"weights_sha256": "0" * 64}))
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError, match=re.escape(str(file.parent))):
        push(run, "ada/bugs")
    assert hub.repos == {}


@pytest.mark.parametrize("token", ["", READER, "hf_wrong"])
def test_without_a_token_that_may_write(hub: Hub, run: Path, monkeypatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ResourceError, match="token") as caught:
        push(run, "ada/bugs")
    assert "HF_TOKEN" in caught.value.remedy
    assert hub.repos == {}


def test_a_repository_with_something_else_is_left_alone(hub: Hub, run: Path) -> None:
    hub.put("ada/thesis", {"thesis.tex": b"", "README.md": b"mine"})
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        push(run, "ada/thesis")
    assert len(hub.repos["ada/thesis"].commits) == 1


def test_a_revision_cannot_be_pushed_to(hub: Hub, run: Path) -> None:
    with pytest.raises(UsageError, match="commit of its own"):
        push(run, "ada/bugs@v1")


def test_an_export_does_not_land_in_the_cache(hub: Hub, run: Path, capsys) -> None:
    assert code_of("export", "hf://ada/bugs", "--to", "torch") == 2
    assert "--out DIR" in capsys.readouterr().err
