"""The freeze plan: which layers learn from which epoch on, and how fast.

Freezing is a learning rate of "none" (the idea is big_vision's): one table, layer group × phase, says everything
about freezing, gradual unfreezing and discriminative learning rates. Epochs count from 0; a phase is a stretch of
epochs in which the same parameters learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune.errors import UsageError, setting
from finetune.model.groups import match

HEAD = "head"


@dataclass(frozen=True)
class Phase:
    """Epochs `start` to `stop` - 1, in which exactly the parameters named in `learning` learn."""

    index: int
    start: int
    stop: int
    learning: frozenset[str]

    @property
    def epochs(self) -> int:
        """How many epochs the phase lasts."""
        return self.stop - self.start

    @property
    def title(self) -> str:
        """Heading of the phase's column in the plan table."""
        last = self.stop - 1
        epochs = f"epoch {last}" if last == self.start else f"epochs {self.start}-{last}"
        return f"phase {self.index}: {epochs}"


@dataclass(frozen=True)
class FreezePlan:
    """Layer group × phase → frozen, or a learning rate.

    Attributes:
        groups: layer group → names of its tensors (parameters and buffers), in forward order, `head` last.
        parameters: parameter name → number of values.
        phases: in order; together they cover all epochs.
        rates: layer group → peak learning rate while it learns.
        warnings: what the user should know about the plan.
    """

    groups: Mapping[str, Sequence[str]]
    parameters: Mapping[str, int]
    phases: tuple[Phase, ...]
    rates: Mapping[str, float]
    warnings: tuple[str, ...] = field(default=())

    @property
    def epochs(self) -> int:
        """Number of epochs that the plan covers."""
        return self.phases[-1].stop

    def phase_at(self, epoch: int) -> Phase:
        """The phase that `epoch` belongs to."""
        return next(phase for phase in self.phases if epoch < phase.stop)

    def learning_at_all(self) -> frozenset[str]:
        """Names of the parameters that learn in some phase."""
        return frozenset().union(*(phase.learning for phase in self.phases))

    def frozen_tensors(self) -> dict[str, list[str]]:
        """Layer group → names of its parameters and buffers that never thaw; groups without any are left out.

        A buffer goes with the parameters of its own module; one whose module has none, with its whole group.
        """
        learning = self.learning_at_all()
        owners = {name.rpartition(".")[0] for name in learning}
        with_parameters = {name.rpartition(".")[0] for name in self.parameters}
        frozen: dict[str, list[str]] = {}
        for group, names in self.groups.items():
            group_learns = any(name in learning for name in names)
            for name in names:
                owner = name.rpartition(".")[0]
                # statistics change where their own module learns, and only there (see `model.freeze.set_modes`)
                buffer_learns = owner in owners if owner in with_parameters else group_learns
                learns = name in learning if name in self.parameters else buffer_learns
                if not learns:
                    frozen.setdefault(group, []).append(name)
        return frozen

    def as_unfreeze(self) -> dict[str, int]:
        """The plan as an `unfreeze` map: layer group (or parameter, where a group is split) → epoch."""
        thaw: dict[str, int] = {}
        for phase in reversed(self.phases):  # the earliest phase has the last word
            thaw.update(dict.fromkeys(phase.learning, phase.start))
        unfreeze: dict[str, int] = {}
        for group, names in self.groups.items():
            epochs = {name: thaw.get(name) for name in names if name in self.parameters}
            first = next(iter(epochs.values()), None)
            if first is not None and set(epochs.values()) == {first}:
                unfreeze[group] = first
            else:
                unfreeze.update({name: epoch for name, epoch in epochs.items() if epoch is not None})
        return unfreeze

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows of `plan.csv`: group, parameters, then one column a phase."""
        rows: list[list[object]] = []
        for group, names in self.groups.items():
            counted = [name for name in names if name in self.parameters]
            cells = [self._cell(group, counted, phase) for phase in self.phases]
            rows.append([group, sum(self.parameters[name] for name in counted), *cells])
        return ["group", "parameters", *(phase.title for phase in self.phases)], rows

    def __str__(self) -> str:
        """The table, aligned."""
        columns, rows = self.table()
        cells = [columns, *([str(value) for value in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        return "\n".join("  ".join(text.rjust(w) for text, w in zip(row, widths, strict=True)) for row in cells)

    def _cell(self, group: str, names: Sequence[str], phase: Phase) -> str:
        learning = [name for name in names if name in phase.learning]
        if not learning:
            return "frozen"
        part = "" if len(learning) == len(names) else f" ({len(learning)} of {len(names)} tensors)"
        return f"{self.rates[group]:.6g}{part}"


def make_plan(
    groups: Mapping[str, Sequence[str]],
    parameters: Mapping[str, int],
    *,
    unfreeze: Mapping[str, int],
    freeze: Sequence[str] = (),
    epochs: int,
    lr: float,
    backbone_lr: float,
    layer_decay: float = 1.0,
) -> FreezePlan:
    """The plan that `unfreeze` (pattern → first epoch of learning) and `freeze` (patterns, which win) describe.

    Args:
        groups: layer group → tensor names, in forward order, with `head` last.
        parameters: parameter name → number of values.
        unfreeze: pattern → epoch; a parameter that several patterns match learns from the earliest of their epochs.
        freeze: patterns that never learn.
        epochs: of the whole run.
        lr: peak learning rate of the head.
        backbone_lr: of the backbone's last layer group.
        layer_decay: each group below has this times the rate of the one above it (ELECTRA's layer-wise decay).

    Raises:
        UsageError: a pattern that matches nothing, an epoch below 0, a plan in which nothing learns (from epoch 0 on).
    """
    names = list(parameters)
    frozen = {name for pattern in freeze for name in match(pattern, groups, names)}
    thaw: dict[str, int] = {}
    warnings: list[str] = []
    for pattern, epoch in unfreeze.items():
        if not isinstance(epoch, int) or epoch < 0:
            raise UsageError(f"model.unfreeze: {pattern}: {epoch!r} is no epoch", "give a whole number from 0 on")
        for name in match(pattern, groups, names) - frozen:
            thaw[name] = min(epoch, thaw.get(name, epoch))
        if epoch >= epochs:
            warnings.append(f"model.unfreeze: {pattern} thaws at epoch {epoch}, but the last epoch is {epochs - 1}")
    _require_learning(thaw, epochs)
    # a phase begins wherever something thaws; what thaws after the last epoch never learns
    starts = sorted({epoch for epoch in thaw.values() if epoch < epochs})
    phases = tuple(
        Phase(index, start, stop, frozenset(name for name, epoch in thaw.items() if epoch <= start))
        for index, (start, stop) in enumerate(zip(starts, [*starts[1:], epochs], strict=True))
    )
    rates = _rates(list(groups), lr, backbone_lr, layer_decay)
    return FreezePlan(groups, parameters, phases, rates, tuple(warnings))


def _require_learning(thaw: Mapping[str, int], epochs: int) -> None:
    first = min(thaw.values(), default=epochs)
    if first > 0:
        when = "nothing ever learns" if first >= epochs else f"nothing learns before epoch {first}"
        raise UsageError(
            f"model.unfreeze: with this plan {when}",
            f"let something learn from epoch 0: {setting('model.unfreeze', {'head': 0})}",
        )


def _rates(groups: Sequence[str], lr: float, backbone_lr: float, layer_decay: float) -> dict[str, float]:
    backbone = [group for group in groups if group != HEAD]
    depth = {group: len(backbone) - 1 - position for position, group in enumerate(backbone)}
    return {group: lr if group == HEAD else backbone_lr * layer_decay ** depth[group] for group in groups}
