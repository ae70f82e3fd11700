"""``make faults``: so many seeded rounds, a line each; exit status 1 if anything did not hold."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from faults import drawn, kinds, rounds
from faults.rounds import Result
from faults.servers import Servers
from tests.support.servers import rabbitmq


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how many")
    parser.add_argument(
        "--runners", type=int, choices=range(1, 9), help="in each; by default its seed tells: 1, 2 or 4"
    )
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count on; by default by chance")
    parser.add_argument("--kind", choices=sorted(kinds.SCRIPTS), help="of all rounds; by default the seed tells")
    parser.add_argument("--fault", choices=sorted(drawn.NAMES), help="in all rounds; by default the seed tells")
    parser.add_argument("--keep", action="store_true", help="keep logs and notes of rounds in which all held, too")
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


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
    failed = [result for result in results if result.verdict.violations]
    again = ", ".join(
        f"make faults ROUNDS=1 SEED={r.seed} RUNNERS={r.runners} KIND={r.kind} FAULT={r.fault}" for r in failed
    )
    return (
        f"{len(results)} rounds in {seconds:.0f} s: {total['kills']} runners killed; {total['tasks']} tasks, "
        f"{total['messages']} messages, {total['twice']} of them sent again under the same id; "
        f"{total['samples']} samples of depths in the {judged} rounds where no worker dies; "
        + (f"{len(failed)} rounds with violations: {again}" if failed else "everything held")
    )


def play_all(options: argparse.Namespace, directory: Path) -> list[Result]:
    """Play the rounds, tell of each, and keep the files of those with violations."""
    first = Random().randrange(1_000_000) if options.seed is None else options.seed
    results: list[Result] = []
    with Servers(directory / "servers") as servers:
        for seed in range(first, first + options.rounds):
            result = rounds.play(servers, directory, seed, options.runners, options.kind, options.fault)
            results.append(result)
            say(str(result))
            if not result.verdict.violations and not options.keep:
                shutil.rmtree(directory / f"round-{seed}")
    return results


def main() -> int:
    """Play the rounds; the exit status."""
    options = parsed()
    if reason := rabbitmq.missing():
        say(reason)
        return 1
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    started = time.monotonic()
    try:
        results = play_all(options, directory)
    finally:
        shutil.rmtree(directory / "servers", ignore_errors=True)
        if any(directory.iterdir()):
            say(f"logs and notes: {directory}")
        else:
            directory.rmdir()
    say(summary(results, time.monotonic() - started))
    return int(any(result.verdict.violations for result in results))


if __name__ == "__main__":
    sys.exit(main())
