"""Which network makes vectors: that of a run or bundle, or a backbone as it was published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.carried import card_of
from finetune.deliver.open_network import open_network, run_of
from finetune.deliver.vectors.record import Identity
from finetune.deliver.vectors.store import VectorStore
from finetune.device import Compute, choose
from finetune.errors import ArtefactError, FinetuneError
from finetune.evaluate.encode import Encoder, make_encoder
from finetune.model.backbones import build
from finetune.model.bundle import plain_state
from finetune.model.groups import HEAD
from finetune.model.hub import on_hub
from finetune.model.network import Network
from finetune.model.weights import tensors_sha256


@dataclass(frozen=True)
class Source:
    """A network that makes vectors, and where it comes from.

    Attributes:
        name: to be found by again: an absolute path, or the name of a backbone.
        network: with its weights.
        trained: its head has learned, so that its answers count.
        folder: of the run or bundle; None for a backbone.
    """

    name: str
    network: Network
    trained: bool
    folder: Path | None = None

    def compute(self, device: str = "auto") -> Compute:
        """In full precision, so that vectors are the same wherever they were made, to rounding."""
        return choose(device, "fp32", convolutional=self.network.convolutional, light=self.network.light)

    def identity(self, encoder: Encoder) -> Identity:
        """The identity of its vectors; for a backbone the new head does not count."""
        network = self.network
        state = plain_state(network.module.state_dict())
        if not self.trained:
            state = {name: tensor for name, tensor in state.items() if name not in network.groups[HEAD]}
        return Identity(
            weights_sha256=tensors_sha256(state),
            architecture=network.architecture,
            options=network.options,
            preprocess=network.preprocess.as_dict(),
            layer=encoder.layer,
            features=encoder.features,
        )


def open_source(name: str) -> Source:
    """The network of a run folder, a model bundle, here or on the hub, or a backbone.

    Raises:
        UsageError, ArtefactError, ResourceError: as `open_network` and `build`.
    """
    path = Path(name).expanduser()
    if repository := on_hub(name):
        return Source(str(repository), open_network(path), True, run_of(path))
    if path.is_dir() or path.suffix == ".pth":
        return Source(str(path.resolve()), open_network(path), True, run_of(path))
    card = card_of(name, Path())
    return Source(str(card.resolve()) if card else name, build(name, ["0", "1"]), False)


def encoder_of(store: VectorStore, model: str | None = None, device: str = "auto") -> tuple[Source, Encoder]:
    """The network that made a store's vectors, for its queries.

    Args:
        store: of vectors.
        model: where the network is now; None for where it was.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ArtefactError: it is not there any more, or it is another one by now.
    """
    remedy = f"say where the run or backbone is now: finetune search {store.path} IMAGE --model RUN"
    try:
        source = open_source(model or store.model)
    except FinetuneError as error:
        if model is not None:
            raise
        problem = f"{store.path}: the network that made its vectors cannot be used: {error.problems[0]}"
        raise ArtefactError(problem, remedy) from error
    encoder = make_encoder(source.network, source.compute(device), layer_in(source.network, store))
    store.require(source.identity(encoder), remedy)
    return source, encoder


def layer_in(network: Network, store: VectorStore) -> str | None:
    """The layer group of a store's vectors, as `make_encoder` takes it: None for what enters the head, and for a
    network that has no such group, which cannot be the store's."""
    return store.identity.layer if store.identity.layer in network.groups else None
