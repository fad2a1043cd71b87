"""The friendly face for scripts: a classifier with a few short methods.

data = ft.ImageFolder("data/vehicles").split(val=0.15, test=0.15, seed=0)
clf = ft.Classifier("timm/resnet50.a1_in1k", classes=data.classes, unfreeze={"head": 0, "layer4": 3})
clf.fit(data, epochs=8)
clf.evaluate(data.test).per_class
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.classifier import accept
from finetune.classifier.images import checked_data_keys, evaluate_images, labelled_images
from finetune.classifier.training import freeze_plan, make_trainer, require_layers, require_split
from finetune.files import visible
from finetune.recipe.flags import with_default
from finetune.recipe.section import train_config

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset, ImageSet
    from finetune.data.picture_input import Picture
    from finetune.deliver.predict import Prediction
    from finetune.deliver.predictor import Predictor
    from finetune.evaluate.metrics import Metrics
    from finetune.model.network import Network
    from finetune.model.plan import FreezePlan
    from finetune.recipe.schema import Recipe, TrainConfig
    from finetune.runs.record import RunRecord
    from finetune.runs.reporter import Reporter
    from finetune.train.trainer import Trainer


class Classifier:
    """An image classifier on a backbone that has already learned.

    Args:
        backbone: timm/NAME, torchvision/NAME, small/NAME, a card, a bundle or a run folder.
        classes: their names, in the order of the outputs.
        weights: default (the published ones, or the card's), none (or None), or a file.
        unfreeze: layer pattern → epoch from which it learns, or patterns; by default the head with weights, else all.
        freeze: layer patterns that never learn; they win over `unfreeze`.
        head: linear, the sizes of hidden layers, or {hidden: [128], activation: relu, dropout: 0.2}.
        features: what it reads: last, stages or auto.
        options: passed to the architecture.
        preprocess: size, mean, std, interpolation, crop, where they differ from the weights' own; or the size alone.
        in_chans: 3 for colour, 1 for grey; None for what the weights were trained on.
        seed: of the new head, data order, augmentation and dropout.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: of training: auto, fp32, bf16 or fp16. Evaluation is in fp32.
        weights_missing: allow, to freeze layers that have learned nothing.
        load: False where a checkpoint brings the weights: none are read, and all else is as if they had been.

    Raises:
        UsageError: an unknown backbone, layer or option. ArtefactError: weights that are broken or of another network.
        ResourceError: published weights that cannot be fetched, a device that is not there.
    """

    def __init__(
        self,
        backbone: str | os.PathLike[str],
        classes: Sequence[str],
        *,
        weights: str | os.PathLike[str] | None = "default",
        unfreeze: Mapping[str, int] | Sequence[str] | str | None = None,
        freeze: Sequence[str] | str = (),
        head: str | Sequence[int] | Mapping[str, Any] = "linear",
        features: str = "last",
        options: Mapping[str, Any] | None = None,
        preprocess: Mapping[str, Any] | int | None = None,
        in_chans: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: str = "auto",
        weights_missing: str = "stop",
        load: bool = True,
    ) -> None:
        from finetune.model.backbones import build
        from finetune.train.decide import learns_by_default

        thaw, seed = accept.unfreeze_of(unfreeze), accept.whole_number(seed, "seed")
        network = build(
            accept.name_of(backbone, "backbone", "timm/resnet50"),
            accept.classes_of(classes),
            weights=accept.weights_of(weights),
            options=accept.options_of(options),
            preprocess=accept.preprocess_of(preprocess),
            in_chans=None if in_chans is None else accept.whole_number(in_chans, "in_chans", 1),
            head=accept.head_of(head),
            features=accept.features_of(features),
            seed=seed,
            load=load,
        )
        self._take(network, seed, device, precision)
        self.unfreeze = with_default(thaw, learns_by_default(network))
        self.freeze = accept.patterns_of(freeze, "freeze")
        require_layers(network, (*self.unfreeze, *self.freeze))
        self._allow_random = weights_missing == "allow" or not load  # a checkpoint's run has been asked already

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
        self._allow_random = True

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the outputs."""
        return self.network.classes

    def plan(self, epochs: int = 10, **train: Any) -> FreezePlan:
        """The freeze plan: which layers learn from which epoch on, and at what rate; printable.

        Args:
            epochs: of the run.
            **train: other keys of a recipe's `train`, such as lr, backbone_lr, layer_decay.
        """
        return self._plan(train_config(epochs=epochs, **train))

    def _plan(self, train: TrainConfig) -> FreezePlan:
        return freeze_plan(self.network, self.unfreeze, self.freeze, train, self._allow_random)

    def fit(
        self,
        data: Dataset,
        epochs: int = 10,
        *,
        augment: str = "light",
        class_weights: str = "none",
        workers: int | None = None,
        reporter: Reporter | None = None,
        **train: Any,
    ) -> Classifier:
        """Train on `data.train`, keep the epoch that is best on `data.val`; returns itself.

        Args:
            data: split images.
            epochs: passes over the training images.
            augment: none, light or strong.
            class_weights: none, or balanced: each class counts as if it had as many images as the others.
            workers: threads that decode images; None for one per core.
            reporter: takes messages and progress; by default a line an epoch on stderr.
            **train: other keys of a recipe's `train`: batch_size, lr, optimizer, schedule, early_stop, ….

        Raises:
            UsageError: an unknown key, or data without a split.
            DataError: its classes are not those of the classifier, or an image changed meanwhile.
            DivergedError: the loss is not finite.
        """
        from finetune.runs.reporter import Reporter

        reporter = reporter or Reporter()
        config = train_config(epochs=epochs, **train)
        choices = checked_data_keys(augment=augment, class_weights=class_weights)
        trainer = self.trainer(data, config, **choices, workers=workers, **reporter.hooks())
        self.history_ = []
        for record in trainer:
            self.history_.append(record)
            reporter.epoch(record, config.epochs)
        self.network.module.load_state_dict(trainer.best_state())
        trainer.position.put_into(self.network)
        reporter.best(trainer.position.best, config.select)
        return self

    def trainer(
        self,
        data: Dataset,
        train: TrainConfig,
        *,
        augment: str = "light",
        class_weights: str = "none",
        workers: int | None = None,
        **hooks: Any,
    ) -> Trainer:
        """The iterator over epochs that `fit` runs through; see `finetune.classifier.training.make_trainer`."""
        require_split(data, self.classes)
        return make_trainer(
            self.network,
            self._plan(train),
            data,
            train,
            self.compute,
            augment=augment,
            class_weights=class_weights,
            workers=workers,
            seed=self.seed,
            **hooks,
        )

    def evaluate(self, images: ImageSet | Dataset | str | os.PathLike[str]) -> Metrics:
        """Metrics on labelled images, in fp32; `.per_class` is a pandas DataFrame.

        Args:
            images: one split, such as `data.test`; a split data set, of which the test images are taken; or a folder
                with one folder of images per class.

        Raises:
            UsageError: there are no test images.
            DataError: the images have a class that the classifier does not know.
        """
        return evaluate_images(self.network, labelled_images(images), self.compute.in_fp32())

    def predict(
        self, source: Picture | Sequence[Picture], *, threshold: float | str | None = "bundle"
    ) -> Prediction | list[Prediction]:
        """The label and confidence of one picture, or a list of them, as `finetune predict` and the server give them.

        Args:
            source: see `finetune.deliver.predictor.Predictor.predict`.
            threshold: the confidence below which a label is None; by default the network's own (`report.threshold`),
                which most have not; auto for the one found on validation; None for a label whatever the confidence.
        """
        from finetune.deliver.predict import pictures_of

        pictures = pictures_of(source)
        return self.predictor(len(pictures) if isinstance(pictures, list) else 1, threshold=threshold).predict(pictures)

    def predictor(self, images: int = 1_000, *, threshold: float | str | None = "bundle") -> Predictor:
        """A predictor for many calls (about `images` pictures in all), from any thread, with the present weights."""
        from finetune.deliver.predict import threshold_of
        from finetune.deliver.predictor import Predictor

        threshold = threshold_of(self.network, threshold)
        return Predictor(self.network, self.compute.in_fp32(), threshold=threshold, images=images)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write a model bundle (`model.safetensors`, `model.json`, `README.md`) that `load` and every command take."""
        from finetune.deliver.card import save_with_card

        return save_with_card(accept.path_of(folder, "folder"), self.network)

    def export(
        self, folder: str | os.PathLike[str], to: str | Sequence[str] = "onnx", images: ImageSet | None = None
    ) -> Path:
        """Write the network for other programs; see `finetune.deliver.export.of_run.export_to`."""
        from finetune.deliver.export.of_run import export_to as do

        return do(self.network, accept.path_of(folder, "folder"), to, images)

    def __repr__(self) -> str:
        """One line: the architecture, the classes, and what learns."""
        names = ", ".join(visible(name) for name in self.classes[:4]) + (", …" if len(self.classes) > 4 else "")
        learns = ", ".join(f"{pattern} from epoch {epoch}" for pattern, epoch in self.unfreeze.items())
        return f"<Classifier {self.network.architecture}: {len(self.classes)} classes ({names}), learns: {learns}>"
