"""The friendly face for scripts."""

from __future__ import annotations

from finetune.classifier.classifier import Classifier, load

__all__ = ["Classifier", "load"]
