"""The friendly face for scripts: a classifier with a few short methods.

data = ft.ImageFolder("data/vehicles").split(val=0.15, test=0.15, seed=0)
clf = ft.Classifier("timm/resnet50.a1_in1k", classes=data.classes, unfreeze={"head": 0, "layer4": 3})
clf.fit(data, epochs=8)
clf.evaluate(data.test).per_class
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError, UsageError
from finetune.recipe.flags import with_default
from finetune.recipe.section import train_config

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset, ImageSet
    from finetune.data.given import Picture
    from finetune.deliver.predict import Prediction
    from finetune.deliver.predictor import Predictor
    from finetune.evaluate.metrics import Metrics
    from finetune.model.network import Network
    from finetune.model.plan import FreezePlan
    from finetune.recipe.schema import Recipe, TrainConfig
    from finetune.runs.checkpoints import Checkpoints
    from finetune.runs.record import RunRecord
    from finetune.train.trainer import Tick, Trainer


class Classifier:
    """An image classifier on a backbone that has already learned.

    Args:
        backbone: timm/NAME, torchvision/NAME, small/NAME, a card, a bundle or a run folder.
        classes: their names, in the order of the outputs.
        weights: default (the published ones, or the card's), none, or a file.
        unfreeze: layer pattern → epoch at which it starts to learn; by default the head with weights, all without.
        freeze: layer patterns that never learn; they win over `unfreeze`.
        head: linear, or {hidden: [128], activation: relu, dropout: 0.2}.
        options: passed to the architecture.
        preprocess: size, mean, std, interpolation, crop, where they differ from the weights' own.
        in_chans: 3 for colour, 1 for grey; None for what the weights were trained on.
        seed: of the new head, data order, augmentation and dropout.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: of training: auto, fp32, bf16 or fp16. Judging is in fp32.
        load: False where a checkpoint brings the weights: none are read, and all else is as if they had been.

    Raises:
        UsageError: an unknown backbone or option.
        ArtefactError: weights that are broken, unsafe or of another architecture.
        ResourceError: published weights that cannot be fetched, a device that is not there.
    """

    def __init__(
        self,
        backbone: str,
        classes: Sequence[str],
        *,
        weights: str = "default",
        unfreeze: Mapping[str, int] | None = None,
        freeze: Sequence[str] = (),
        head: str | Mapping[str, Any] = "linear",
        options: Mapping[str, Any] | None = None,
        preprocess: Mapping[str, Any] | None = None,
        in_chans: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: str = "auto",
        load: bool = True,
    ) -> None:
        from finetune.model.backbones import build
        from finetune.train.decide import learns_by_default

        network = build(
            backbone,
            list(classes),
            weights=weights,
            options=dict(options or {}),
            preprocess=dict(preprocess or {}),
            in_chans=in_chans,
            head=head if isinstance(head, str) else dict(head),
            seed=seed,
            load=load,
        )
        self._take(network, seed, device, precision)
        self.unfreeze = with_default(unfreeze, learns_by_default(network))
        self.freeze = tuple(freeze)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        classes: Sequence[str],
        freeze: Sequence[str] = (),
        *,
        run: RunRecord | None = None,
    ) -> Classifier:
        """The classifier that a recipe describes.

        Args:
            recipe: one that is resolved.
            classes: their names, in the order of the outputs.
            freeze: layer patterns that never learn.
            run: the record of a run whose checkpoints bring the weights. Its backbone need not be there any more, and
                the precision and speed in which it began are kept.
        """
        model = recipe.model.model_dump(mode="json")
        train = recipe.train
        precision: str = train.precision
        if run is not None:
            from finetune.deliver.publish import as_it_was

            model |= as_it_was(run, model)
            if precision == "auto":
                precision = run.precision or precision
        classifier = cls(
            model.pop("backbone"),
            classes,
            **model,
            freeze=freeze,
            seed=recipe.seed,
            device=train.device,
            precision=precision,
            load=run is None,
        )
        if "off" in (train.speed, run and run.speed):
            classifier.compute = replace(classifier.compute, speed="off")
        return classifier

    @classmethod
    def of(cls, network: Network, *, seed: int = 0, device: str = "auto", precision: str = "auto") -> Classifier:
        """A classifier around a network that is there already."""
        classifier = cls.__new__(cls)
        classifier._take(network, seed, device, precision)
        classifier.unfreeze, classifier.freeze = {"head": 0}, ()
        return classifier

    def _take(self, network: Network, seed: int, device: str, precision: str) -> None:
        from finetune.device import choose

        self.network = network
        self.compute = choose(device, precision, convolutional=network.convolutional, light=network.light)
        self.seed = seed
        self.history_: list[dict[str, Any]] = []

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the outputs."""
        return self.network.classes

    def plan(self, epochs: int = 10, **train: Any) -> FreezePlan:
        """What learns when and how fast; printable.

        Args:
            epochs: of the run.
            **train: other keys of a recipe's `train`, such as lr, backbone_lr, layer_decay.
        """
        return self._plan(train_config(epochs=epochs, **train))

    def _plan(self, train: TrainConfig) -> FreezePlan:
        from finetune.model.plan import make_plan
        from finetune.train.decide import backbone_lr

        values = train.model_dump()
        return make_plan(
            self.network.groups,
            self.network.parameters,
            unfreeze=self.unfreeze,
            freeze=self.freeze,
            epochs=train.epochs,
            lr=train.lr,
            backbone_lr=backbone_lr(values, self.network.pretrained),
            layer_decay=train.layer_decay,
        )

    def fit(self, data: Dataset, epochs: int = 10, *, augment: str = "light", **train: Any) -> Classifier:
        """Train on `data.train`, keep the epoch that is best on `data.val`; returns itself.

        Args:
            data: split images.
            epochs: passes over the training images.
            augment: none, light or strong.
            **train: other keys of a recipe's `train`: batch_size, lr, optimizer, schedule, early_stop, ….

        Raises:
            DataError: its classes are not those of the classifier, or an image changed meanwhile.
            DivergedError: the loss is not finite.
        """
        config = train_config(epochs=epochs, **train)
        trainer = self.trainer(data, config, augment=augment)
        self.history_ = list(trainer)
        self.network.module.load_state_dict(trainer.best_state())
        self.network.temperature = trainer.position.temperature
        self.network.auto_threshold = trainer.position.auto_threshold
        return self

    def trainer(
        self,
        data: Dataset,
        train: TrainConfig,
        *,
        augment: str = "light",
        class_weights: str = "none",
        workers: int | None = None,
        checkpoints: Checkpoints | None = None,
        stop: Callable[[], int | None] = lambda: None,
        tick: Tick | None = None,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> Trainer:
        """The iterator over epochs that `fit` runs through; see `finetune.train.trainer.Trainer`."""
        from finetune.data.batches import load_images
        from finetune.train.decide import make_cache, make_settings
        from finetune.train.trainer import Trainer

        self._require_classes(data)
        values = train.model_dump()
        settings = make_settings(values, data.train, augment, class_weights, self.seed, self.network)
        self.network.loss = settings.loss
        cache = make_cache(values)
        train_images, val_images = (
            load_images(part, self.network.preprocess, workers, cache.pictures()) for part in (data.train, data.val)
        )
        return Trainer(
            self.network,
            self._plan(train),
            train_images,
            val_images,
            settings,
            self.compute if train.speed == "auto" else replace(self.compute, speed="off"),
            cache=cache,
            val_is_final=data.parts()[-1][0] == "val",
            checkpoints=checkpoints,
            stop=stop,
            tick=tick,
            progress=progress,
            say=say,
        )

    def evaluate(self, images: ImageSet) -> Metrics:
        """Metrics on labelled images, in fp32; `.per_class` is a pandas DataFrame.

        Raises:
            DataError: the images have a class that the classifier does not know.
        """
        from finetune.data.batches import load_images
        from finetune.data.dataset import ImageSet
        from finetune.evaluate.judge import judge_images

        # labels by name, in this classifier's order
        relabelled = ImageSet(images.root, images.table, self.classes, images.pixels)
        loaded = load_images(relabelled, self.network.preprocess)
        network = self.network
        return judge_images(network, loaded, self.compute.in_fp32(), loss=network.loss).metrics

    def predict(self, source: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """The label and confidence of one picture, or a list of them; see `finetune.deliver.predictor.Predictor`."""
        from finetune.deliver.predict import pictures_of

        pictures = pictures_of(source)
        return self.predictor(len(pictures) if isinstance(pictures, list) else 1).predict(pictures)

    def predictor(self, images: int = 1_000, *, threshold: float | None = None) -> Predictor:
        """What answers many calls, about `images` pictures, from any thread, with the weights as they are now."""
        from finetune.deliver.predictor import Predictor

        return Predictor(self.network, self.compute.in_fp32(), threshold=threshold, images=images)

    def save(self, folder: str | Path) -> Path:
        """Write a model bundle (`model.safetensors`, `model.json`, `README.md`) that `load` and every command take."""
        from finetune.deliver.card import save_with_card

        return save_with_card(Path(folder), self.network)

    def export(self, folder: str | Path, to: str | Sequence[str] = "onnx", images: ImageSet | None = None) -> Path:
        """Write the network for other programs; see `finetune.deliver.export.of_run.export_to`."""
        from finetune.deliver.export.of_run import export_to as do

        return do(self.network, Path(folder), to, images)

    def _require_classes(self, data: Dataset) -> None:
        if not (hasattr(data, "train") and hasattr(data, "val")):
            raise UsageError(f"data: {type(data).__name__} has no train and val", "give ImageFolder(…).split(…)")
        if list(data.classes) != self.classes:
            problem = f"{data.root}: its classes {data.classes} are not the classifier's {self.classes}"
            raise DataError(problem, "make the classifier with classes=data.classes")


def load(folder: str | Path) -> Classifier:
    """The classifier of a model bundle or of a finished run.

    Raises:
        UsageError: there is none. ArtefactError: it is broken or of a newer version.
    """
    from finetune.model.bundle import load_bundle

    return Classifier.of(load_bundle(Path(folder)))
