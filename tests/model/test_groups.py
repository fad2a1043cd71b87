"""Layer groups of many architectures, and the patterns that pick layers."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from finetune.errors import UsageError
from finetune.model.architectures import LIBRARIES
from finetune.model.groups import layer_groups, match

CLASSES = 7
EXPECTED = {
    "timm/resnet18": "stem layer1 layer2 layer3 layer4 head",
    "timm/resnetv2_50": "stem stages.0 stages.1 stages.2 stages.3 final head",
    "timm/mobilenetv2_035": "stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 blocks.6 final head",
    "timm/mobilenetv3_small_050": "stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 final head",
    "timm/efficientnet_b0": "stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 blocks.6 final head",
    "timm/vgg11_bn": "stage1 stage2 stage3 stage4 stage5 final head",
    "timm/densenet121": "stem features.denseblock1 features.transition1 features.denseblock2 features.transition2 "
    "features.denseblock3 features.transition3 features.denseblock4 final head",
    "timm/convnext_atto": "stem stages.0 stages.1 stages.2 stages.3 final head",
    "timm/test_vit": "stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 final head",
    "timm/swin_tiny_patch4_window7_224": "stem layers.0 layers.1 layers.2 layers.3 final head",
    "timm/regnety_002": "stem s1 s2 s3 s4 head",
    "timm/deit_tiny_distilled_patch16_224": " ".join(["stem", *(f"blocks.{n}" for n in range(12)), "final", "head"]),
    "timm/twins_svt_small": "stem blocks.0 blocks.1 blocks.2 blocks.3 final head",
    "timm/dla34": "stem level0 level1 level2 level3 level4 level5 head",
    "torchvision/resnet18": "stem layer1 layer2 layer3 layer4 head",
    "torchvision/mobilenet_v2": " ".join([*(f"features.{n}" for n in range(19)), "head"]),
    "torchvision/mobilenet_v3_small": " ".join([*(f"features.{n}" for n in range(13)), "final", "head"]),
    "torchvision/efficientnet_b0": " ".join([*(f"features.{n}" for n in range(9)), "head"]),
    "torchvision/vgg11": "stage1 stage2 stage3 stage4 stage5 final head",
    "torchvision/vgg16_bn": "stage1 stage2 stage3 stage4 stage5 final head",
    "torchvision/alexnet": "stage1 stage2 stage3 final head",
    "torchvision/densenet121": "stem features.denseblock1 features.transition1 features.denseblock2 "
    "features.transition2 features.denseblock3 features.transition3 features.denseblock4 final head",
    "torchvision/squeezenet1_1": "features.0 features.3 features.4 features.6 features.7 features.9 features.10 "
    "features.11 features.12 head",
    "torchvision/convnext_tiny": " ".join([*(f"features.{n}" for n in range(8)), "final", "head"]),
    "torchvision/vit_b_32": " ".join(["stem", *(f"encoder.layers.encoder_layer_{n}" for n in range(12)), "final head"]),
    "torchvision/swin_t": " ".join([*(f"features.{n}" for n in range(8)), "final", "head"]),
    "torchvision/regnet_y_400mf": " ".join(["stem", *(f"trunk_output.block{n}" for n in range(1, 5)), "head"]),
    "torchvision/shufflenet_v2_x0_5": "stem stage2 stage3 stage4 final head",
    "torchvision/inception_v3": "stem Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a "
    "Mixed_7b Mixed_7c head",
}
HEADS = {"timm/convnext_atto": "head.fc", "torchvision/vgg11": "classifier.6", "torchvision/vit_b_32": "heads.head"}


@cache
def grouped(architecture: str) -> tuple[dict[str, list[str]], list[str], list[str], tuple[str, ...]]:
    prefix, _, name = architecture.partition("/")
    library = LIBRARIES[prefix]
    device = "cpu" if "regnet_" in name else "meta"  # torchvision's RegNet copies values while it is built
    with torch.device(device):
        module = library.create(name, CLASSES, 3, library.own_options(name, trained=True, in_chans=3), None)
    heads = library.heads(module, CLASSES)
    names = [name for name, _ in module.named_parameters()]
    return layer_groups(module, architecture, heads), list(module.state_dict()), names, heads


@pytest.mark.parametrize("architecture", EXPECTED)
def test_groups_are_the_networks_own_stages_and_hold_every_tensor_once(architecture: str) -> None:
    groups, tensors, _, heads = grouped(architecture)
    assert " ".join(groups) == EXPECTED[architecture]
    assert sorted(name for members in groups.values() for name in members) == sorted(tensors)
    assert sorted(groups["head"]) == sorted(f"{head}.{kind}" for head in heads for kind in ("weight", "bias"))
    assert heads[0] == HEADS.get(architecture, heads[0])


def test_embeddings_and_tokens_are_in_the_stem_and_norms_before_the_head_in_final() -> None:
    groups, *_ = grouped("timm/test_vit")
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(groups["stem"])
    assert groups["final"] == ["norm.weight", "norm.bias"]
    assert set(grouped("timm/convnext_atto")[0]["final"]) == {"head.norm.weight", "head.norm.bias"}
    assert "pos_block.0.proj.0.weight" in grouped("timm/twins_svt_small")[0]["stem"]


def test_vgg_is_grouped_by_resolution() -> None:
    groups, *_ = grouped("torchvision/vgg11")
    layers = {
        group: [name.split(".")[1] for name in names if name.endswith("weight")] for group, names in groups.items()
    }
    assert [layers[f"stage{n}"] for n in range(1, 6)] == [["0"], ["3"], ["6", "8"], ["11", "13"], ["16", "18"]]


def test_a_network_without_stages_is_grouped_by_its_children() -> None:
    module = torch.nn.Sequential()
    for name, child in [
        ("enter", torch.nn.Linear(2, 3)),
        ("middle", torch.nn.Linear(3, 3)),
        ("leave", torch.nn.Linear(3, 2)),
    ]:
        module.add_module(name, child)
    assert list(layer_groups(module, "own", "leave")) == ["enter", "middle", "head"]
    with pytest.raises(UsageError):
        layer_groups(module, "own", "nothing")


# --- patterns --------------------------------------------------------------------------------------------------------


def picked(pattern: str, architecture: str = "timm/mobilenetv2_035") -> set[str]:
    groups, _, names, _ = grouped(architecture)
    return match(pattern, groups, names)


def test_a_pattern_is_a_group_a_module_or_a_glob() -> None:
    assert picked("head") == {"classifier.weight", "classifier.bias"}
    assert (
        picked("blocks.6") == picked("blocks.6.*") == {name for name in picked("all") if name.startswith("blocks.6.")}
    )
    assert picked("blocks.1.0") < picked("blocks.1")
    assert picked("blocks.1") & picked("blocks.5") == set()
    assert picked("*.bn?.bias") > {"blocks.0.0.bn1.bias"}
    assert picked("conv_stem.weight") == {"conv_stem.weight"}
    assert picked("layer1", "timm/resnet18") == picked("layer1.*", "timm/resnet18")


def test_head_means_the_new_classifier_and_not_a_module_of_that_name() -> None:
    assert picked("head", "timm/convnext_atto") == {"head.fc.weight", "head.fc.bias"}


def test_backbone_and_head_are_all() -> None:
    assert picked("backbone") | picked("head") == picked("all")
    assert picked("backbone") & picked("head") == set()
    assert all(not name.endswith("running_mean") for name in picked("all"))


def test_last_n_counts_from_the_end_of_the_backbone() -> None:
    assert picked("last:1") == picked("final")
    assert picked("last:2") == picked("final") | picked("blocks.6")
    assert picked("last:9") == picked("backbone")


@pytest.mark.parametrize("pattern", ["last:10", "last:0", "last:", "last:-1", "last:two", "last:²"])
def test_last_n_out_of_range_says_how_many_there_are(pattern: str) -> None:
    with pytest.raises(UsageError, match="has 9 layer groups"):
        picked(pattern)


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("blokcs.6", "blocks.6"),
        ("blokcs.6.*", "blocks.6"),
        ("blocks.7", "blocks.6"),
        ("hed", "head"),
        ("backbon", "backbone"),
        ("clasifier", "classifier"),
        ("conv_sten.weight", "conv_stem.weight"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        picked(pattern)
    assert pattern in caught.value.problems[0]
    assert f"'{near}'" in caught.value.problems[0]
    assert "blocks.0" in caught.value.remedy


@pytest.mark.parametrize("pattern", ["", " ", ".", "blocks.6.", "[", "BLOCKS.6"])
def test_odd_patterns_match_nothing(pattern: str) -> None:
    with pytest.raises(UsageError):
        picked(pattern)
