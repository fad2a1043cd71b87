"""A head that reads several stages: the same network around it, in every family, and back again."""

from __future__ import annotations

import copy
import threading

import pytest
import timm
import torch

from finetune.model.backbones import build
from finetune.model.bundle import load_bundle, save_bundle
from finetune.model.cut import cut
from finetune.model.freeze import set_learning
from finetune.model.network import Network
from finetune.model.stages import StagesHead, feature_groups, read_last, reads_only_last

# A convolutional network, a transformer (tokens), one with channels last (windows), one of torchvision.
FAMILIES = ["timm/test_resnet", "timm/test_vit", "timm/test_convnext", "timm/test_efficientnet"]


def network_of(name: str, features: str = "stages", size: int | None = None) -> Network:
    preprocess = {} if size is None else {"size": size}
    return build(name, ["a", "b", "c"], weights="none", features=features, preprocess=preprocess)


def filled(network: Network) -> Network:
    head = network.module.get_submodule(network.head)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        head.weight.copy_(torch.randn(head.weight.shape) * 0.1)
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_it_reads_the_last_three_groups_and_begins_as_the_head_that_does_not(name: str) -> None:
    network, plain = network_of(name), network_of(name, "last")
    assert network.features == "stages", network.notes
    widths = feature_groups(network)
    groups = [group for group in network.groups if group not in ("stem", "final", "head")]
    assert list(widths) == [*groups[-3:], "last"]
    pictures = network.preprocess.example()
    with torch.no_grad():
        assert torch.allclose(network.module(pictures), plain.module(pictures), atol=1e-6)
    assert set(network.module.state_dict()) == set(plain.module.state_dict())
    assert reads_only_last(network)


@pytest.mark.parametrize("name", FAMILIES)
def test_everything_below_it_is_one_table(name: str) -> None:
    network = filled(network_of(name))
    learning = [f"{network.head}.weight", f"{network.head}.bias"]
    set_learning(network.module, set(learning))
    pictures = network.preprocess.example()
    found = cut(network.module, learning, example=pictures)
    (value,) = found.prefix(pictures)
    assert value.shape == (len(pictures), sum(feature_groups(network).values()))
    with torch.no_grad():
        assert torch.allclose(found.eval_suffix(value), network.module(pictures), atol=1e-5)


def test_it_is_saved_loaded_and_made_narrow_again(tmp_path) -> None:
    network = filled(network_of("timm/test_resnet", size=32))
    pictures = network.preprocess.example()
    save_bundle(tmp_path, network, {})
    again = load_bundle(tmp_path)
    assert isinstance(again.module.get_submodule(again.head), StagesHead)
    with torch.no_grad():
        expected = network.module(pictures)
        assert torch.equal(again.module(pictures), expected)
        assert not reads_only_last(again)
        head = again.module.get_submodule(again.head)
        head.weight[:, : -head.last] = 0
        expected = again.module(pictures)
    assert reads_only_last(again)
    read_last(again)
    with torch.no_grad():
        assert torch.allclose(again.module(pictures), expected, atol=1e-6)
    plain = timm.create_model("test_resnet", num_classes=3)
    plain.load_state_dict(again.module.state_dict(), strict=True)


def test_threads_and_copies_do_not_disturb_each_other() -> None:
    network = filled(network_of("timm/test_resnet", size=32))
    copy_sharing_parameters = copy.deepcopy(network.module)
    batches = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    with torch.no_grad():
        expected = [network.module(batch) for batch in batches]
    wrong = []

    def work(number: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                for module in (network.module, copy_sharing_parameters):
                    if not torch.allclose(module(batches[number]), expected[number], atol=1e-5):
                        wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(("name", "told"), [("small/mlp", "traced"), ("timm/test_resnet", "one linear layer")])
def test_where_it_cannot_be_it_stays_with_the_last_output_and_says_so(name: str, told: str) -> None:
    head = {"hidden": [4]} if name.startswith("timm") else "linear"
    network = build(name, ["a", "b"], weights="none", features="auto", head=head)
    assert network.features == "last"
    assert not network.choose_features
    assert any("model.features" in note and told in note for note in network.notes)
