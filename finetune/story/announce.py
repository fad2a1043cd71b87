"""What a run says before it learns."""

from __future__ import annotations

from finetune.report.tables import plan_text
from finetune.runs.reporter import Reporter
from finetune.train.preview import expected_seconds, outline, passes
from finetune.train.state import patience_note
from finetune.train.trainer import Trainer


def show_plan(trainer: Trainer, evaluated: int, reporter: Reporter) -> None:
    """Say what is used and what learns when, about how long it takes, and what is worth knowing about it."""
    seconds = expected_seconds(trainer, evaluated)
    reporter.left.expect(seconds, passes(trainer))
    for line in outline(trainer, sum(seconds.values())):
        reporter.say(line)
    reporter.say(f"\n{plan_text(*trainer.plan.table())}\n")
    patience = patience_note(trainer.settings.early_stop, trainer.settings.select, len(trainer.plan.phases))
    reporter.notes([*trainer.plan.warnings, *trainer.network.notes, *filter(None, [patience])])
