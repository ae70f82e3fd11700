"""``make faults``: so many seeded rounds, a line each; exit status 1 if anything did not hold."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults import drawn, kinds, report, rounds
from faults.rounds import Result
from faults.servers import Servers


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = report.parser("faults", __doc__, 10)
    parser.add_argument(
        "--runners", type=int, choices=range(1, 9), help="in each; by default its seed tells: 1, 2 or 4"
    )
    parser.add_argument("--kind", choices=sorted(kinds.SCRIPTS), help="of all rounds; by default the seed tells")
    parser.add_argument("--fault", choices=sorted(drawn.NAMES), help="in all rounds; by default the seed tells")
    return parser.parse_args()


def summary(results: list[Result], seconds: float) -> str:
    """What all rounds came to."""
    total = Counter[str]()
    for result in results:
        total.update(
            kills=result.kills,
            tasks=result.size,
            messages=result.verdict.messages,
            twice=result.verdict.sent_twice,
            samples=result.verdict.samples,
        )
    judged = sum(1 for result in results if result.verdict.samples)
    failed = [result for result in results if result.violations]
    again = ", ".join(
        f"make faults ROUNDS=1 SEED={r.seed} RUNNERS={r.runners} KIND={r.kind} FAULT={r.fault}" for r in failed
    )
    return (
        f"{len(results)} rounds in {seconds:.0f} s: {total['kills']} runners killed; {total['tasks']} tasks, "
        f"{total['messages']} messages, {total['twice']} of them sent again under the same id; "
        f"{total['samples']} samples of depths in the {judged} rounds where no worker dies; "
        + (f"{len(failed)} rounds with violations: {again}" if failed else "everything held")
    )


def main() -> int:
    """Play the rounds; the exit status."""
    options = parsed()

    def played(servers: Servers, directory: Path) -> Iterator[tuple[Path, Result]]:
        for seed in report.seeds(options):
            result = rounds.play(servers, directory, seed, options.runners, options.kind, options.fault)
            yield directory / f"round-{seed}", result

    return report.play("faults", played, summary, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
