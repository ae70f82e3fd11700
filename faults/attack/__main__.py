"""``make attack``: so many seeded rounds, a line each; exit status 1 if a target is missed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from faults import report
from faults.attack.plan import NAMES
from faults.attack.rounds import MAX_MESSAGE_BYTES, MEGABYTE, Attack, Result
from faults.servers import Servers

# Of a round in which each class is played alone.
FEW = 5


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = report.parser("attack", __doc__, 1)
    parser.add_argument("--hostile", type=int, default=10_000, help="hostile messages in each")
    parser.add_argument("--good", type=int, default=1_000, help="runs in each, whose events are good")
    parser.add_argument("--class", dest="names", choices=NAMES, action="append", help="only this one; may be repeated")
    parser.add_argument("--each", action="store_true", help=f"a round of {FEW} messages for each class instead")
    return parser.parse_args()


def attacks(options: argparse.Namespace, servers: Servers, directory: Path) -> Iterator[tuple[Path, Attack]]:
    """The rounds, and the folder of each."""
    names = options.names or NAMES
    for seed in report.seeds(options):
        if options.each:
            for name in names:
                folder = directory / f"round-{seed}-{name}"
                yield folder, Attack(servers, folder, seed, FEW, FEW, [name])
        else:
            folder = directory / f"round-{seed}"
            yield folder, Attack(servers, folder, seed, options.hostile, options.good, names)


def summary(results: list[Result], seconds: float) -> str:
    """What all rounds came to."""
    failed = [str(result.seed) for result in results if result.violations]
    refused = {name: reason for result in results for name, reason in result.refused.items()}
    unheard = "".join(f"\n  {name}: {reason}" for name, reason in sorted(refused.items()))
    return (
        f"{len(results)} rounds in {seconds:.0f} s: {sum(each.hostile for each in results)} hostile messages, "
        f"{sum(each.applied for each in results)} of {sum(each.good for each in results)} good runs applied, "
        f"{sum(each.rejected for each in results)} rejected where {sum(each.unreadable for each in results)} can't be "
        f"read, {sum(each.restarts + each.process_restarts for each in results)} restarts, "
        f"{max(each.peak_bytes for each in results) / MEGABYTE:.0f} MB at most; "
        + (f"violations with the seeds {', '.join(failed)}" if failed else "everything held")
        + (f"\nthe broker itself refuses, by class:{unheard}" if unheard else "")
    )


def main() -> int:
    """Play the rounds; the exit status."""
    options = parsed()

    def played(servers: Servers, directory: Path) -> Iterator[tuple[Path, Result]]:
        for folder, attack in attacks(options, servers, directory):
            yield folder, attack.run()

    return report.play("attack", played, summary, keep=options.keep, max_message_bytes=MAX_MESSAGE_BYTES)


if __name__ == "__main__":
    sys.exit(main())
