"""Trained networks on this machine: in this package, in installed ones, in the caches; and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.carried import carried_folder
from finetune.errors import ArtefactError, FinetuneError, ResourceError, UsageError
from finetune.files import cache_folder, first_comment
from finetune.model.card import Card, read_card
from finetune.model.installed import is_installed, is_packaged

AUTO = "auto"
"""The backbone that is chosen by what is at hand."""

BEST = "models/efficientnet-lite0"
"""The card that `auto` means where its package is installed: of the networks that pip brings, the best frozen one."""

PUBLISHED = "timm/tf_efficientnet_lite0.in1k"
"""The same network on the model hub."""

FALLBACK = "models/small-resnet"
"""What the package itself carries."""

INSTALL = "pip install 'finetune-toolkit[weights]'"

PROBE_SECONDS = 5.0
"""How long `auto` waits for a sign of life from the model hub before it takes what it has."""

FETCH_SECONDS = 60.0
"""How long `auto` lets a download of its 18 MB take, so that a hub that only drips is no standstill."""


@dataclass(frozen=True)
class Choice:
    """The backbone that `backbone: auto` stands for, and why.

    Attributes:
        backbone: a name that `build` takes.
        sentence: why, and what would be better, for people.
    """

    backbone: str
    sentence: str


@dataclass(frozen=True)
class Model:
    """A network that can be named as a backbone.

    Attributes:
        name: as a recipe says it.
        where: where its weights are, or what brings them here.
        ready: whether they are on this machine.
        about: what it is.
    """

    name: str
    where: str
    ready: bool
    about: str


def choose_backbone() -> Choice:
    """The best network whose weights are installed, cached or can be downloaded.

    EfficientNet-Lite0 out of its package; else the same from the hub's cache, or from the hub if that answers; else
    the network that the package carries.
    """
    card = carried_folder() / f"{BEST}.yaml"
    if card.is_file() and is_installed(read_card(card).weights or ""):
        return Choice(str(card), "EfficientNet-Lite0, ImageNet-trained")
    if _cached(PUBLISHED) or _fetched(PUBLISHED):
        return Choice(PUBLISHED, "EfficientNet-Lite0, ImageNet-trained, from the model hub")
    return Choice(
        str(carried_folder() / f"{FALLBACK}.yaml"),
        f"the small network that comes with this tool; a much better one: {INSTALL}",
    )


def list_at_hand(folder: Path, pattern: str = "") -> list[Model]:
    """Every card in `models/` of the working folder and of the package, and what the hub's cache holds; sorted.

    Args:
        folder: the working folder.
        pattern: a part of the name.
    """
    cards = {f"models/{path.stem}": path for home in (carried_folder(), folder) for path in home.glob("models/*.yaml")}
    available = [_of_card(name, path) for name, path in sorted(cards.items()) if pattern in name]
    return available + [
        Model(name, "in the model hub's cache", True, "published weights") for name in _hub_cache() if pattern in name
    ]


def _of_card(name: str, path: Path) -> Model:
    about = first_comment(path)
    try:
        card = read_card(path)
    except UsageError as error:
        return Model(name, f"not a card: {error.problems[0]}", False, about)
    return Model(name, *_whereabouts(card), about)


def _whereabouts(card: Card) -> tuple[str, bool]:
    weights = card.weights or ""
    if weights == "none":
        return "has learned nothing yet", True
    if not weights:
        return f"published weights of {card.architecture}, from the model hub", False
    try:
        path = card.weights_path
    except (ArtefactError, ResourceError) as error:
        return f"not installed: {error.remedy}", False
    if path is None or not path.is_file():
        return f"its weights file {weights} is missing", False
    return ("in an installed package" if is_packaged(weights) else "beside its card"), True


# --- the model hub ---------------------------------------------------------------------------------------------------


def _repository(name: str) -> str:
    return f"timm/{name.partition('/')[2]}"


def _cached(name: str) -> bool:
    from finetune.model.published import cached_hub_weights

    return cached_hub_weights(_repository(name)) is not None


def _fetched(name: str) -> bool:
    """Whether the weights could be downloaded just now; a hub that is silent, or only drips, is given up."""
    from finetune.model.published import hub_answers, hub_weights

    if not hub_answers(PROBE_SECONDS):
        return False
    try:
        hub_weights(_repository(name), seconds=FETCH_SECONDS)
    except FinetuneError:  # `auto` takes what there is; who names the network is told why it cannot be had
        return False
    return True


def _hub_cache() -> Sequence[str]:
    """timm's networks in the cache that all users of the hub share, and in our own."""
    from huggingface_hub import constants

    shared = [path.name.removeprefix("models--timm--") for path in Path(constants.HF_HUB_CACHE).glob("models--timm--*")]
    own = [path.name.removeprefix("timm--") for path in (cache_folder() / "weights").glob("timm--*")]
    return sorted({f"timm/{name}" for name in (*shared, *own)})
