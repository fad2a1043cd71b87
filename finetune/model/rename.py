"""Another implementation's names of tensors as ours, by rules that are data in a card.

    rename:
      _conv_stem: conv_stem              # a module, with all that is in it
      _blocks:
        to: blocks
        stages: [1, 2, 2]                # _blocks.0 is blocks.0.0, _blocks.1 is blocks.1.0, _blocks.2 is blocks.1.1 …
        inside:                          # in each block by the first rule that fits it
          - {where: _expand_conv, names: {_expand_conv: conv_pw, _bn0: bn1}}
          - {names: {_bn1: bn1}}         # the blocks without `_expand_conv`

Plain names and numbers, no patterns: a card from anywhere can rename, and nothing else. What no rule names stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import ArtefactError
from finetune.files import visible
from finetune.model.weights import State

Rules = Mapping[str, Any]

_LIST_KEYS = {"to", "stages", "inside"}
_INSIDE_KEYS = {"where", "names"}


def renamed(state: State, rules: Rules, source: str) -> State:
    """The tensors under their new names.

    Args:
        state: name → tensor.
        rules: without problems, see `rule_problems`.
        source: the file's name for messages.

    Raises:
        ArtefactError: two tensors would have the same name, or there are more blocks than the stages hold.
    """
    if not rules:
        return state
    by_new_name: State = {}
    for name, tensor in state.items():
        new = _new_name(name, rules, state, source)
        if new in by_new_name:
            raise ArtefactError(
                f"{source}: {visible(name)}: the card's rename rules name it {visible(new)}, which another is",
                "correct `rename` in the card, or give the weights file that the card was written for",
            )
        by_new_name[new] = tensor
    return by_new_name


def _new_name(name: str, rules: Rules, state: State, source: str) -> str:
    module, _, rest = name.partition(".")
    rule = rules.get(module)
    if rule is None:
        return name
    if isinstance(rule, str):
        return f"{rule}.{rest}" if rest else rule
    number, _, rest = rest.partition(".")
    if not number.isdecimal():
        return name
    block = f"{module}.{number}."
    new_number = _position_in_stages(int(number), rule.get("stages"))
    if new_number is None:
        raise ArtefactError(
            f"{source}: {visible(name)}: the card's rename rules have stages for {sum(rule['stages'])} blocks",
            "correct `rename` in the card, or give the weights file that the card was written for",
        )
    for inside in rule.get("inside", ()):
        where = inside.get("where")
        if where is None or any(other.startswith(f"{block}{where}.") for other in state):
            head, dot, tail = rest.partition(".")
            rest = f"{inside['names'].get(head, head)}{dot}{tail}"
            break
    return f"{rule['to']}.{new_number}.{rest}"


def _position_in_stages(number: int, stages: Sequence[int] | None) -> str | None:
    """The new number of a block of a flat list: `STAGE.INDEX`, or its number where there are no stages."""
    if stages is None:
        return str(number)
    for stage, length in enumerate(stages):
        if number < length:
            return f"{stage}.{number}"
        number -= length
    return None


def rule_problems(rules: Rules) -> Iterator[str]:
    """Problems of a card's rules, one line each."""
    for name, rule in rules.items():
        if isinstance(rule, str):
            continue
        if not isinstance(rule, Mapping) or not isinstance(rule.get("to"), str) or set(rule) - _LIST_KEYS:
            yield f"rename.{name}: must be a name, or {{to: NAME, stages: [lengths], inside: [rules]}}"
            continue
        stages = rule.get("stages")
        if stages is not None and not (isinstance(stages, list) and all(_is_count(length) for length in stages)):
            yield f"rename.{name}.stages: must be a list of lengths, not {stages!r}"
        inside = rule.get("inside", [])
        if not isinstance(inside, list) or not all(_is_inside(entry) for entry in inside):
            yield f"rename.{name}.inside: must be a list of {{where: NAME, names: {{OLD: NEW}}}}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10_000


def _is_inside(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or set(entry) - _INSIDE_KEYS or not isinstance(entry.get("names"), Mapping):
        return False
    return isinstance(entry.get("where", ""), str) and all(isinstance(new, str) for new in entry["names"].values())
