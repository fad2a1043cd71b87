"""`python -m tests.fuzz`: each target for 60 seconds, or through the counts of a full pass with --full."""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import time

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.targets import TARGETS, Target

ROUND = 250
"""Inputs between two looks at the clock."""


def fuzz(target: Target, number: int, examples: int) -> None:
    """Try so many inputs, drawn from seed `number`; raises what is found, shrunk."""
    quiet = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )

    def attempt(content: bytes) -> None:
        target(content)

    seed(number)(quiet(given(target.inputs)(attempt)))()


def main() -> int:
    """Print a line a target; exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target [60]")
    parser.add_argument("--full", action="store_true", help="the counts of a full pass instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all, if none is named")
    options = parser.parse_args()
    failed = False
    for name in options.targets or TARGETS:
        target, begin = TARGETS[name](), time.monotonic()
        for number in itertools.count(options.seed):
            try:
                fuzz(target, number, ROUND)
            except Exception as error:  # anything undocumented is the find
                print(f"{name}: FOUND with seed {number}: {type(error).__name__}: {error}")
                print(f"  in {target.last!r}")
                failed = True
                break
            tried = sum(target.counts.values())
            if tried >= target.full if options.full else time.monotonic() - begin > options.seconds:
                break
        tried, memory = sum(target.counts.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        counts = ", ".join(f"{count:,} {what}" for what, count in target.counts.most_common())
        print(
            f"{name}: {tried:,} inputs ({counts}) in {time.monotonic() - begin:.0f} s; "
            f"slowest {target.slowest:.2f} s; memory at most {memory:.0f} MiB",
            flush=True,
        )
        failed |= memory > 1024
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
