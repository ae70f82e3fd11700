"""``make faults``: so many seeded rounds, a line each; exit status 1 if anything did not hold."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults import drawn, report, rounds, seeds
from faults.lost.rounds import Result as LostResult
from faults.seeds import Result
from faults.servers import Servers


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = report.parser("faults", __doc__, 10)
    parser.add_argument(
        "--runners", type=int, choices=range(1, 9), help="in each; by default its seed tells: 1, 2 or 4"
    )
    parser.add_argument("--kind", choices=sorted(seeds.KINDS), help="of all rounds; by default the seed tells")
    parser.add_argument("--fault", choices=sorted(drawn.NAMES), help="in all rounds; by default the seed tells")
    return parser.parse_args()


def summary(results: list[Result], seconds: float) -> str:
    """What all rounds came to."""
    failed = [result for result in results if result.violations]
    return "\n".join(
        [
            *_of_messages([result for result in results if isinstance(result, rounds.Result)]),
            *_of_losses([result for result in results if isinstance(result, LostResult)]),
            f"{len(results)} rounds in {seconds:.0f} s; "
            + (
                f"{len(failed)} rounds with violations: {', '.join(result.again for result in failed)}"
                if failed
                else "everything held"
            ),
        ]
    )


def _of_messages(results: list[rounds.Result]) -> Iterator[str]:
    """Of rounds in which a drainer takes what runners send."""
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
    if results:
        yield (
            f"{len(results)} rounds with a drainer: {total['kills']} runners killed; {total['tasks']} tasks, "
            f"{total['messages']} messages, {total['twice']} of them sent again under the same id; "
            f"{total['samples']} samples of depths in the {judged} rounds where no worker dies"
        )


def _of_losses(results: list[LostResult]) -> Iterator[str]:
    """Of rounds with workers."""
    total, verdicts = Counter[str](), Counter[str]()
    for result in results:
        verdict = result.verdict
        verdicts.update(verdict.verdicts)
        cut = "cut" if result.cuts else "not cut"
        total.update(
            kills=result.kills,
            tasks=result.size,
            executions=verdict.executions,
            failures=verdict.failures,
            lost=verdict.lost,
            corrected=verdict.corrected,
        )
        total.update({f"false, {cut}": verdict.false, cut: 1})
    noted = ", ".join(f"{name}: {count}" for name, count in sorted(verdicts.items())) or "no verdicts"
    if results:
        yield (
            f"{len(results)} rounds with workers: {total['kills']} services and workers killed; "
            f"{total['tasks']} tasks, {total['executions']} executions, {total['failures']} failures, "
            f"{total['lost']} runs lost ({noted}), {total['corrected']} corrected; "
            f"false losses: {total['false, not cut']} in the {total['not cut']} rounds in which no worker lost its "
            f"network, {total['false, cut']} in {total['cut']} others"
        )


def main() -> int:
    """Play the rounds; the exit status."""
    options = parsed()

    def played(servers: Servers, directory: Path) -> Iterator[tuple[Path, Result]]:
        for seed in report.seeds(options):
            result = seeds.play(servers, directory, seed, options.runners, options.kind, options.fault)
            yield directory / f"round-{seed}", result

    return report.play("faults", played, summary, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
