"""The friendly face for scripts."""

from __future__ import annotations

from finetune.classifier.classifier import Classifier
from finetune.classifier.open_classifier import load

__all__ = ["Classifier", "load"]
