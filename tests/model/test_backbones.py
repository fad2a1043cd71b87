"""From a backbone's name to a network: heads, sizes, cards, seeds, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from torch import nn

from finetune.errors import ArtefactError, ResourceError, UsageError
from finetune.model import from_timm, from_torchvision
from finetune.model.backbones import build, find, list_backbones
from finetune.model.lineage import Base
from finetune.model.weights import tensors_sha256

NAMES = ["bus", "car", "ferry"]
SMALL = {"size": 64}


def scratch(backbone: str, **settings: Any) -> Any:
    return build(backbone, NAMES, **{"weights": "none", "preprocess": SMALL, **settings})


def card(folder: Path, weights: str | None = "w.safetensors", sha256: str | None = None, more: str = "") -> Path:
    lines = ["architecture: timm/test_resnet", *([f"weights: {weights}"] if weights else [])]
    lines += [f"sha256: {sha256}"] if sha256 else []
    (folder / "net.yaml").write_text("\n".join([*lines, more]) + "\n")
    return folder / "net.yaml"


def written(folder: Path, classes: int = 1000) -> tuple[Path, dict[str, torch.Tensor]]:
    state = {**timm.create_model("test_resnet", num_classes=classes).state_dict()}
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors", state


def hash_of(network: Any) -> str:
    return tensors_sha256(network.module.state_dict())


# --- names in state dicts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("timm/resnet18", {}),
        ("timm/mobilenetv2_035", {"pad_type": "same", "bn_eps": 1e-3}),
        ("timm/convnext_atto", {}),
        ("timm/test_vit", {}),
        ("torchvision/resnet18", {}),
        ("torchvision/squeezenet1_1", {}),
        ("torchvision/mobilenet_v3_small", {}),
        ("torchvision/vit_b_32", {}),
        ("torchvision/googlenet", {}),
    ],
)
def test_the_state_dict_loads_strictly_into_the_plain_constructor(backbone: str, options: dict[str, Any]) -> None:
    network = scratch(backbone, options=options)
    library, _, name = backbone.partition("/")
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    plain = create(name, num_classes=3, **network.options)
    plain.load_state_dict(network.module.state_dict())
    picture = torch.rand(1, 3, *network.preprocess.size)
    torch.testing.assert_close(plain.eval()(picture), network.module(picture))


def test_a_hidden_head_sits_where_the_old_classifier_was() -> None:
    network = scratch("timm/resnet18", head={"hidden": [16, 8], "activation": "gelu", "dropout": 0.2})
    head = network.module.get_submodule(network.head)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Dropout", "Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear"]
    assert set(network.groups["head"]) == {f"fc.{n}.{kind}" for n in (1, 4, 7) for kind in ("weight", "bias")}
    squeeze = scratch("torchvision/squeezenet1_1", head={"hidden": [16]})
    assert [type(layer).__name__ for layer in squeeze.module.get_submodule(squeeze.head)] == [
        "Conv2d",
        "ReLU",
        "Conv2d",
    ]


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_the_seed_decides_and_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (hash_of(scratch("timm/test_resnet", seed=seed)) for seed in (1, 1, 2))
    written(tmp_path)
    torch.set_rng_state(before)
    heads = [build(str(card(tmp_path)), NAMES, preprocess=SMALL, seed=seed).module.fc.weight for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


# --- sizes and channels ----------------------------------------------------------------------------------------------


def test_preprocessing_is_the_weights_own_unless_it_is_said_otherwise() -> None:
    for name in ("test_resnet", "mobilenetv3_small_050", "test_vit", "efficientnet_b1"):
        own = from_timm.default_preprocess(name)
        timms = resolve_model_data_config(timm.create_model(name))
        assert (3, *own["size"]) == timms["input_size"]
        assert (own["mean"], own["std"], own["interpolation"], own["crop"]) == tuple(
            timms[key] for key in ("mean", "std", "interpolation", "crop_pct")
        )
    torchvisions = from_torchvision.default_preprocess("resnet50")
    assert torchvisions["size"] == (224, 224)
    assert torchvisions["crop"] == pytest.approx(224 / 232)
    assert torchvisions["interpolation"] == "bilinear"
    network = scratch("timm/test_resnet", preprocess={"size": [48, 64], "crop": 1.0, "mean": None})
    assert network.preprocess.size == (48, 64)
    assert network.preprocess.crop == 1.0
    assert network.preprocess.mean == (0.5, 0.5, 0.5)


def test_a_transformer_is_built_for_the_size_that_is_asked_for() -> None:
    network = scratch("timm/test_vit", preprocess={"size": 96})
    assert network.options == {"img_size": [96, 96]}
    assert scratch("timm/test_vit", preprocess={}).options == {}
    assert scratch("timm/test_vit", preprocess={}, options={"img_size": 128}).preprocess.size == (128, 128)
    with pytest.raises(UsageError, match="square"):
        scratch("torchvision/vit_b_32", preprocess={"size": [96, 64]})


@pytest.mark.parametrize("backbone", ["timm/resnet18", "torchvision/resnet18"])
def test_grey_networks_take_one_channel(backbone: str) -> None:
    network = scratch(backbone, in_chans=1)
    assert network.preprocess.mean == (pytest.approx(0.449),)
    assert network.in_chans == 1
    assert network.module(torch.rand(1, 1, 64, 64)).shape == (1, 3)


# --- weights ---------------------------------------------------------------------------------------------------------


def test_a_card_brings_architecture_options_weights_and_preprocessing(tmp_path: Path) -> None:
    path, state = written(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    extra = "options: {drop_rate: 0.25}\npreprocess: {size: 64, mean: [0.4, 0.5, 0.6]}\nlicence: MIT\nsource: a test"
    network = build(str(card(tmp_path, sha256=digest, more=extra)), NAMES)
    assert network.options == {"drop_rate": 0.25}
    assert network.module.drop_rate == 0.25
    assert network.preprocess.size == (64, 64)
    assert network.preprocess.mean == (0.4, 0.5, 0.6)
    assert network.source == str(path)
    own = network.module.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith("fc."))
    assert own["fc.weight"].shape[0] == 3
    assert any("fc.weight" in note for note in network.notes)
    assert not network.module.training
    over = build(str(tmp_path / "net.yaml"), NAMES, options={"drop_rate": 0.5}, preprocess={"size": 32}, weights="none")
    assert (over.options, over.preprocess.size, over.pretrained) == ({"drop_rate": 0.5}, (32, 32), False)


def test_the_head_is_new_even_where_the_file_has_as_many_classes(tmp_path: Path) -> None:
    _, state = written(tmp_path, classes=3)
    network = build("timm/test_resnet", NAMES, weights=str(tmp_path / "w.safetensors"), preprocess=SMALL)
    assert not torch.equal(network.module.fc.weight, state["fc.weight"])


def test_colour_weights_serve_a_grey_network(tmp_path: Path) -> None:
    path, state = written(tmp_path)
    grey = build("timm/test_resnet", NAMES, weights=str(path), preprocess=SMALL, in_chans=1)
    torch.testing.assert_close(grey.module.conv1[0].weight, state["conv1.0.weight"].sum(dim=1, keepdim=True))


@pytest.mark.parametrize("library", [from_timm, from_torchvision])
@pytest.mark.parametrize("in_chans", [3, 1])
def test_published_weights_are_loaded_without_their_head(
    monkeypatch: pytest.MonkeyPatch, library: Any, in_chans: int
) -> None:
    create = timm.create_model if library is from_timm else torchvision.models.get_model
    state = {name: value.clone() for name, value in create("resnet18", num_classes=9).state_dict().items()}
    monkeypatch.setattr(library, "published", lambda name: (dict(state), Base("net", "somewhere")))
    name = library.__name__.rpartition("_")[2]
    network = build(f"{name}/resnet18", NAMES, preprocess=SMALL, in_chans=in_chans)
    own = network.module.state_dict()
    same = [key for key in own if not key.startswith("fc.") and key != "conv1.weight"]
    assert all(torch.equal(own[key], state[key]) for key in same)
    expected = state["conv1.weight"] if in_chans == 3 else state["conv1.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(own["conv1.weight"], expected)
    assert network.source == "somewhere"
    assert "state_dict" not in getattr(network.module, "pretrained_cfg", {})


def test_published_weights_with_as_many_classes_leave_no_trace_in_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {**timm.create_model("test_resnet").state_dict()}
    monkeypatch.setattr(from_timm, "published", lambda name: (dict(state), Base("net", "somewhere")))
    network = build("timm/test_resnet", [str(n) for n in range(1000)], preprocess=SMALL)
    assert not torch.equal(network.module.fc.weight, state["fc.weight"])


def test_position_embeddings_of_another_size_are_resampled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in timm.create_model("test_vit").state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    network = build("timm/test_vit", NAMES, weights=str(tmp_path / "w.safetensors"), preprocess={"size": 96})
    assert network.module.pos_embed.shape != state["pos_embed"].shape
    assert torch.equal(network.module.cls_token, state["cls_token"])
    vit = {**torchvision.models.vit_b_32(image_size=224).state_dict()}
    monkeypatch.setattr(from_torchvision, "published", lambda name: (dict(vit), Base("net", "somewhere")))
    other = build("torchvision/vit_b_32", NAMES, preprocess={"size": 96})
    assert other.module.encoder.pos_embedding.shape == (1, 10, 768)
    assert torch.equal(other.module.class_token, vit["class_token"])


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "near"),
    [
        ("timm/resnet81", "resnet18"),
        ("timm/resnet50.a1_in", "resnet50.a1_in1k"),
        ("torchvision/rsnet18", "resnet18"),
        ("tim/resnet18", "timm/resnet18"),
        ("resnet18", "torchvision/resnet18"),
        ("os:system", "timm/NAME"),
        ("timm/hf-hub:someone/something", "finetune models"),
        ("timm/local-dir:/tmp", "finetune models"),
        ("", "folder"),
        ("net.pth", "weights='net.pth'"),
        ("./nowhere", "path"),
        ("nowhere.yaml", "path"),
    ],
)
def test_an_unknown_backbone_is_a_usage_error_with_the_nearest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=near):
        build(backbone, NAMES)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"options": {"pretrained_cfg": {"file": "x"}, "checkpoint_path": "x"}}, r"options\.checkpoint_path"),
        ({"options": {"act_layer": "os.system"}}, "os.system"),
        ({"preprocess": {"sise": 3}}, "did you mean 'size'"),
        ({"in_chans": 4}, "in_chans"),
        ({"head": "lineal"}, "lineal"),
        ({"head": {"hidden": [3], "activation": "rleu"}}, "relu"),
    ],
)
def test_settings_that_cannot_be_are_usage_errors(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        scratch("timm/test_resnet", **settings)


@pytest.mark.parametrize(
    ("classes", "named"), [([], "none"), (["a"], "only one"), (["a", "b", "a"], "a: named twice"), ("abc", "no list")]
)
def test_class_names_that_cannot_be_are_usage_errors(classes: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        build("timm/test_resnet", classes, weights="none")


def test_a_size_that_the_network_cannot_run_is_told_in_plain_words() -> None:
    with pytest.raises(UsageError, match="cannot run on pictures of 16×16 with 3 channels"):
        scratch("torchvision/vgg11", preprocess={"size": 16})


def test_an_architecture_without_published_weights_says_what_to_do() -> None:
    with pytest.raises(UsageError) as caught:
        build("timm/mobilenetv2_035", NAMES)
    assert "no weights" in caught.value.problems[0]
    assert "weights='none', unfreeze={'all': 0}" in caught.value.remedy


@pytest.mark.parametrize("backbone", ["timm/resnet50.a1_in1k", "torchvision/resnet18", "timm/gcvit_tiny"])
def test_published_weights_that_are_not_cached_are_a_resource_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(ResourceError) as caught:
        build(backbone, NAMES)
    assert caught.value.exit_code == 6
    assert "weights='none', unfreeze={'all': 0}" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_card_whose_weights_are_not_the_ones_it_describes_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ArtefactError, match="sha256"):
        build(str(card(tmp_path, sha256="0" * 64)), NAMES)
    with pytest.raises(ArtefactError, match="no such weights file"):
        build(str(card(tmp_path, weights="gone.pth", sha256="0" * 64)), NAMES)
    with pytest.raises(ArtefactError, match="no such weights file"):
        build(str(card(tmp_path, weights="gone.pth")), NAMES)


def test_all_that_is_wrong_with_a_card_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("weigths: w.pth\noptions: 3\nclasses: [1]\npreprocess: {sise: 3}\n")
    with pytest.raises(UsageError) as caught:
        build(str(tmp_path / "bad.yaml"), NAMES)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for words in ("did you mean 'weights'", "options: must be", "architecture: missing", "1 is not text", "'size'"):
        assert words in text
    for content in ("[]", "", "a: &x 1", "\x00"):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(UsageError, match=r"bad\.yaml"):
            build(str(tmp_path / "bad.yaml"), NAMES)
    (tmp_path / "bad.yaml").write_text("architecture: timm/resnet81")
    with pytest.raises(UsageError, match=r"bad\.yaml: architecture: .*'resnet18'"):
        build(str(tmp_path / "bad.yaml"), NAMES)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    with pytest.raises(ArtefactError, match="another architecture"):
        build("timm/mobilenetv2_035", NAMES, weights=str(path), preprocess=SMALL)
    with pytest.raises(ArtefactError, match="no such weights file"):
        build("timm/mobilenetv2_035", NAMES, weights=str(tmp_path / "gone.pth"), preprocess=SMALL)


def test_models_is_a_short_name_for_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    written(tmp_path / "models")
    card(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    assert build("models/net", NAMES, preprocess=SMALL).architecture == "timm/test_resnet"


def test_a_card_is_found_by_every_spelling_of_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    card(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    for name in ("models/net", "./models/net", "../{}/models/net", str(tmp_path / "models" / "net")):
        for ending in ("", ".yaml", "/"):
            assert find(name.format(tmp_path.name) + ending).architecture == "timm/test_resnet", name + ending


def test_backbones_can_be_listed() -> None:
    assert list_backbones("torchvision/resnet*") == [f"torchvision/resnet{n}" for n in (101, 152, 18, 34, 50)]
    assert "timm/mobilenetv2_035" in list_backbones("mobilenetv2")
    assert "timm/resnet50.a1_in1k" in list_backbones("resnet50.*")
    assert list_backbones("nothing-like-this") == []


def test_networks_are_told_apart_by_what_does_the_work() -> None:
    assert scratch("timm/test_resnet").convolutional
    assert not scratch("timm/test_vit", preprocess={}).convolutional
    assert isinstance(scratch("timm/test_resnet").module, nn.Module)


def test_the_real_card(real_data: Path) -> None:
    path = real_data.parent / "weights" / "mobilenetv2_035.in1k.yaml"
    if not path.is_file():
        pytest.fail(f"{path}: not beside the data")
    network = build(str(path), [str(n) for n in range(7)])
    assert network.notes == []
    plain = timm.create_model("mobilenetv2_035", num_classes=7, pad_type="same", bn_eps=1e-3)
    plain.load_state_dict(network.module.state_dict())
