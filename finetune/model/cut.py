"""The cut at the freeze line: a frozen prefix, and the suffix that learns.

The idea: trace the network with torch.fx in the modes of the phase. An operation is above the line if it, or anything
it depends on, uses a parameter that learns, changes a buffer (BatchNorm statistics), is random, or is another one in
evaluation. All others are the prefix; the values that cross may be computed once and kept.

Why the two parts are the network: each operation runs on one side as it stands, in its order, with its own parameters;
none is rewritten. And that is not taken on trust: both parts are run on noise beside the whole (`_parts_agree`), and a
network whose parts disagree is not cut.

What would break it, and what is done against it:
- an operation above the line that writes in place would change values that are kept for the next epoch: the line
  follows memory, not only arguments, and clones what is written to (`freeze_line.py`);
- tracing bakes in each module's `training` flag: the network is traced once in the phase's modes and once in eval mode,
  and what differs between the two is above the line;
- tracing bakes in the batch size: the two traces have batches of 2 and 1, so that a number that goes with the batch is
  known by its change, and the proof runs a batch of 3;
- code that looks at the pixels to decide what to do cannot be traced: then only a head that comes last is cut off.
"""

from __future__ import annotations

import posixpath
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx, nn

from finetune.device import own_randomness
from finetune.model.freeze import live_batchnorm
from finetune.model.freeze_line import FreezeLine, Uncuttable, prefix_of, suffix_of
from finetune.model.trace import KeyTable, Trace, copy_sharing_parameters, fetch, trace_and_run

Values = tuple[torch.Tensor, ...]

TOLERANCE = 1e-3
"""Largest deviation of the parts' logits from the network's, as a share of the largest logit: precision, not logic."""


@dataclass(frozen=True)
class Cut:
    """A network in two parts: `suffix(*prefix(images))` are its logits, in the modes of the phase.

    All parts run the network's own submodules and parameters: its optimizer, modes, hashes and checkpoints are theirs.
    Nothing in `prefix` learns, is random or changes a buffer, and no part writes to the values, so they can be kept and
    used again; made in inference mode, however, they serve `eval_suffix` only. Batches may be of any size; the images
    are of the height and width of the example.

    Attributes:
        prefix: images, float32 [N, C, H, W] → the values that cross the freeze line, each [N, ...].
        suffix: those values → logits, float [N, classes]; for training, with the modules in the modes of the phase.
        eval_suffix: the same for evaluation, with all modules in eval mode.
        where: what a person calls this cut, e.g. ``before layer4``.
        no_prefix: nothing is cut: the images are the values, and `suffix` and `eval_suffix` are the network.
        bytes_per_image: what the values of one image take in float32; 0 where nothing is cut.
    """

    prefix: Callable[[torch.Tensor], Values]
    suffix: Callable[..., torch.Tensor]
    eval_suffix: Callable[..., torch.Tensor]
    where: str
    no_prefix: bool = False
    bytes_per_image: int = 0


def cut(module: nn.Module, learning: Collection[str], *, example: torch.Tensor | None = None) -> Cut:
    """Cut `module` for a phase in which the parameters named in `learning` learn.

    A network that cannot be traced is cut before its last module if only that one learns, else not at all: autograd
    skips what is frozen below the lowest learning layer by itself.

    Args:
        module: the network, in the modes of the phase (see `set_modes`); afterwards as it was.
        learning: names of its parameters that learn.
        example: images as the network gets them, float [N, C, H, W]; only shape, type, device and memory format count.
            Without one, nothing is cut.
    """
    if example is None:
        return _uncut(module, "no example image was given")
    by_name = dict(module.named_parameters(remove_duplicate=False))
    ids = {id(by_name[name]) for name in learning}
    if ids == {id(parameter) for parameter in module.parameters()}:
        return _uncut(module, "the first layer learns")
    with own_randomness():
        torch.manual_seed(0)
        try:
            parts = _cut_by_tracing(module, ids, example)
        except Uncuttable as error:
            return _uncut(module, str(error))
        except Exception as error:  # a network's own code, run in an unusual way, may raise anything
            problem = textwrap.shorten(f"{type(error).__name__}: {error}", 100, placeholder=" …")
            reason = f"the network cannot be traced ({problem})"
            return _before_last_module(module, learning, example) or _uncut(module, reason)
        if not _parts_agree(module, parts, example):
            return _uncut(module, "the two parts did not give what the whole network gives")
    return parts


def noise(example: torch.Tensor, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Images like the example, but no two alike.

    Args:
        example: float [N, C, H, W]; only shape, type, device and memory format count.
        batch: how many.
        generator: of the example's device; None for the global random state.
    """
    shape = (batch, *example.shape[1:])
    images = torch.randn(shape, dtype=example.dtype, device=example.device, generator=generator)
    last = example.is_contiguous(memory_format=torch.channels_last)
    return images.to(memory_format=torch.channels_last) if last else images


def _uncut(module: nn.Module, reason: str) -> Cut:
    return Cut(
        prefix=lambda images: (images,),
        suffix=module,
        eval_suffix=module,
        where=f"at the images: {reason}",
        no_prefix=True,
    )


# --- by tracing ------------------------------------------------------------------------------------------------------


def _cut_by_tracing(module: nn.Module, learning: set[int], example: torch.Tensor) -> Cut:
    traced, table = copy_sharing_parameters(module), KeyTable()
    train = trace_and_run(traced, noise(example, 2), table)
    evaluated = trace_and_run(traced.eval(), noise(example, 1), table)
    if any(evaluated.effects[node].impure for node in evaluated.nodes):
        raise Uncuttable("it is random, or changes a buffer, in evaluation too")
    eval_effects = {evaluated.keys[node]: evaluated.effects[node] for node in evaluated.nodes}
    line = FreezeLine(train, _seeds(train, learning, eval_effects), eval_effects, evaluated.batch)
    if train.output not in line.learning:
        raise Uncuttable("nothing that learns has a part in the logits")
    below = [node for node in train.nodes if node in train.varying and node not in line.learning]
    if not any(train.parameters(source) for node in below for source in (node, *node.all_input_nodes)):
        raise Uncuttable("the first layer learns")
    crossing_keys = [train.keys[node] for node in line.values]
    suffix = suffix_of(line, train, module, crossing_keys)
    eval_suffix = suffix
    if [train.keys[node] for node in train.nodes] != [evaluated.keys[node] for node in evaluated.nodes]:
        fixed = {train.keys[node] for node in below}
        train_effects = {train.keys[node]: train.effects[node] for node in train.nodes}
        seeds = [n for n in evaluated.nodes if n in evaluated.varying and evaluated.keys[n] not in fixed]
        eval_line = FreezeLine(evaluated, seeds, train_effects, train.batch)
        eval_suffix = suffix_of(eval_line, evaluated, module, crossing_keys)
    return Cut(
        prefix=prefix_of(line, train, module),
        suffix=suffix,
        eval_suffix=eval_suffix,
        where=f"before {_cut_name(train, module, learning)}",
        bytes_per_image=sum(4 * train.effects[node].value[0].numel() for node in line.values),
    )


def _seeds(train: Trace, learning: set[int], evaluated: Collection[int]) -> list[fx.Node]:
    """The operations that learn by themselves, not because of what they depend on."""
    return [
        node
        for node in train.nodes
        if any(id(parameter) in learning for parameter in train.parameters(node))
        or train.effects[node].impure
        or (node in train.varying and train.keys[node] not in evaluated)
    ]


def _cut_name(trace: Trace, module: nn.Module, learning: set[int]) -> str:
    """For people: the largest module that learns as a whole and runs first; ``the head`` if it is the last."""
    used = [node for node in trace.nodes if trace.parameters(node)]
    first = next(node for node in used if any(id(parameter) in learning for parameter in trace.parameters(node)))
    owner = str(first.target) if first.op == "call_module" else str(first.target).rpartition(".")[0]
    parts = owner.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        owned = {id(parameter) for parameter in fetch(module, name).parameters()} if name else set()
        if owned and owned <= learning:
            last_target = str(used[-1].target)
            return "the head" if learning <= owned and f"{last_target}.".startswith(f"{name}.") else name
    return owner or str(first.target)


# --- without tracing -------------------------------------------------------------------------------------------------


class _Reached(Exception):
    """Carries what a module was called with out of a forward pass."""


def _before_last_module(module: nn.Module, learning: Collection[str], example: torch.Tensor) -> Cut | None:
    """The cut before the module that holds everything that learns, if its output is the network's; else None."""
    name = posixpath.commonpath([name.rpartition(".")[0].replace(".", "/") for name in learning]).replace("/", ".")
    if not name:
        return None
    last_module = module.get_submodule(name)

    def prefix(images: torch.Tensor) -> Values:
        def stop(_: nn.Module, args: Values) -> None:
            raise _Reached(args)

        handle = last_module.register_forward_pre_hook(stop)
        try:
            module(images)
        except _Reached as reached:
            values: Values = reached.args[0]
            return values
        finally:
            handle.remove()
        raise RuntimeError(f"the network does not call its module {name}")

    def suffix(*values: torch.Tensor) -> torch.Tensor:
        # The first thing the module does may be done in place.
        logits: torch.Tensor = last_module(*(value.clone() for value in values))
        return logits

    if any(not f"{norm}.".startswith(f"{name}.") for norm in live_batchnorm(module)):
        return None
    try:
        with torch.no_grad():
            images = noise(example, 2)
            values, again = prefix(images), prefix(images)  # twice: a prefix that is random must not be kept
    except Exception:  # a network's own code again: any failure only means that it is not cut here
        return None
    are_batches = all(isinstance(value, torch.Tensor) and value.dim() and len(value) == len(images) for value in values)
    if not values or not are_batches or not all(torch.equal(a, b) for a, b in zip(values, again, strict=True)):
        return None
    parts = Cut(prefix, suffix, suffix, "before the head", False, sum(4 * value[0].numel() for value in values))
    return parts if _parts_agree(module, parts, example) else None


# --- the proof -------------------------------------------------------------------------------------------------------


def _parts_agree(module: nn.Module, candidate: Cut, example: torch.Tensor) -> bool:
    """Whether the parts give what the network gives, in eval mode, and leave the values as they are."""
    # A batch of 3, because the traces had 2 and 1: a number that was baked in shows.
    images = noise(example, 3)
    with evaluating(module), torch.no_grad():
        logits = module(images)
        values = candidate.prefix(images)
        values_before = [value.clone() for value in values]
        logits_of_parts = candidate.eval_suffix(*values)
    close = float((logits_of_parts - logits).abs().max()) <= TOLERANCE * max(float(logits.abs().max()), 1e-6)
    return close and all(torch.equal(a, b) for a, b in zip(values, values_before, strict=True))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; outside, each module is in the mode that it was in."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
