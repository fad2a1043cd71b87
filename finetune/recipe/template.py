"""The commented recipe that `finetune init` writes."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.carried import carried_folder
from finetune.files import visible
from finetune.recipe.yaml import inline


def commented(folder: str, name: str, classes: Sequence[str], images: int, backbone: str) -> str:
    """A recipe for `folder` with the keys most people change, each explained, and the rest left at its default.

    Args:
        folder: of the images, as it should stand in the recipe.
        name: of the runs.
        classes: that were found.
        images: how many were found.
        backbone: what to start from.
    """
    schema = (carried_folder() / "recipes" / "schema.json").as_uri()
    listed = ", ".join(visible(item) for item in classes[:12]) + (", ..." if len(classes) > 12 else "")
    return f"""\
# yaml-language-server: $schema={schema}
# {visible(name)}: {images:,} images of {len(classes)} classes ({listed}).
#
#     finetune check FILE      audit recipe and images
#     finetune plan FILE       what learns when, and how fast
#     finetune run FILE        the whole job
#
# Any key can be changed for one run: -o train.lr=3e-4. All keys with their defaults: docs/recipe.md.
name: {inline(name)}   # of the runs: runs/NAME/001, 002, ...
seed: 0                          # of the new head, data order and augmentation
data:
  folder: {inline(folder)}   # one folder of images per class, or train/, val/ and test/ with those in them
  split: {{val: 0.15, test: 0.15}}   # used where the folder has no train/ and val/ of its own
  augment: none                  # none | light | strong; a solved head gains nothing from changed images
  on_bad: stop                   # stop | skip   unreadable images
  class_weights: balanced        # none | balanced   balanced: rare classes weigh more
model:
  backbone: {inline(backbone)}   # auto (the best at hand) | timm/... | models/NAME | a card, bundle or run
  weights: default               # default | none (from scratch) | a .safetensors/.pth/.pt file
  features: auto                 # what the head reads: last | stages (of the network) | auto (the better of both)
  unfreeze: {{head: 0}}            # layer pattern: epoch from which it learns; e.g. {{head: 0, 'last:2': 1}}
train:
  optimizer: auto                # the head is solved where only it learns; adamw for other layers
  epochs: 10                     # this and what follows is for layers that are trained
  batch_size: 32                 # images a step
  lr: 0.001                      # of the head; thawed backbone layers get a tenth (backbone_lr)
  select: val_macro_f1           # which epoch is the best: val_macro_f1 | val_accuracy | val_loss
"""
