"""``make attack``: so many seeded rounds, a line each; exit status 1 if a target is missed."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from faults.attack.plan import NAMES
from faults.attack.rounds import MAX_MESSAGE_BYTES, MEGABYTE, Attack, Result
from faults.servers import Servers
from tests.support.servers import rabbitmq

# Of a round in which each class is played alone.
FEW = 5


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how many")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count on; by default by chance")
    parser.add_argument("--hostile", type=int, default=10_000, help="hostile messages in each")
    parser.add_argument("--good", type=int, default=1_000, help="runs in each, whose events are good")
    parser.add_argument("--class", dest="names", choices=NAMES, action="append", help="only this one; may be repeated")
    parser.add_argument("--each", action="store_true", help=f"a round of {FEW} messages for each class instead")
    parser.add_argument("--keep", action="store_true", help="keep the logs of rounds in which all held, too")
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def attacks(options: argparse.Namespace, servers: Servers, directory: Path) -> Iterator[tuple[str, Path, Attack]]:
    """The rounds: what names each, its folder, and itself."""
    first = Random().randrange(1_000_000) if options.seed is None else options.seed
    names = options.names or NAMES
    for seed in range(first, first + options.rounds):
        if options.each:
            for name in names:
                folder = directory / f"round-{seed}-{name}"
                yield f"class={name} ", folder, Attack(servers, folder, seed, FEW, FEW, [name])
        else:
            folder = directory / f"round-{seed}"
            yield "", folder, Attack(servers, folder, seed, options.hostile, options.good, names)


def play_all(options: argparse.Namespace, directory: Path) -> list[Result]:
    """Play the rounds, tell of each, and keep the files of those with violations."""
    results: list[Result] = []
    with Servers(directory / "servers", MAX_MESSAGE_BYTES) as servers:
        for name, folder, attack in attacks(options, servers, directory):
            result = attack.run()
            results.append(result)
            say(f"{name}{result}")
            if not result.violations and not options.keep:
                shutil.rmtree(folder)
    return results


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
    if reason := rabbitmq.missing():
        say(reason)
        return 1
    directory = Path(tempfile.mkdtemp(prefix="attack-"))
    started = time.monotonic()
    try:
        results = play_all(options, directory)
    finally:
        shutil.rmtree(directory / "servers", ignore_errors=True)
        if any(directory.iterdir()):
            say(f"logs: {directory}")
        else:
            directory.rmdir()
    say(summary(results, time.monotonic() - started))
    return int(any(result.violations for result in results))


if __name__ == "__main__":
    sys.exit(main())
