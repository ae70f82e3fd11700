"""Which workers are connected, as a queue of theirs shows at each look.

A worker with remote control has a queue of its own (its pidbox), which belongs to its connection: it vanishes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

# When more than half of the workers, and at least so many, vanish at one look, it is the broker that went away.
MOST_AT_ONCE = 3


@attrs.define(slots=True)
class Absence:
    """A worker that is not connected: since which look, and how long before that look its last sign came.

    ``since`` is by ``time.monotonic``. ``silent_seconds`` is the most that can have passed between the last sign and
    the end of the connection. ``with_most``: most workers vanished at the same look.
    """

    since: float
    silent_seconds: float | None
    with_most: bool = False


class Presence:
    """What the looks showed, by life. Forget it when the connection that looks was broken: nothing is known then."""

    def __init__(self) -> None:
        self._absent: dict[int, Absence] = {}
        self._present: set[int] = set()

    def look(
        self,
        lives: Iterable[tuple[int, str, float | None]],
        is_connected: Callable[[str], bool | None],
        now: float,
    ) -> bool:
        """Look at each life: its id, hostname, and seconds since its last sign. False if most vanished at once."""
        seen: dict[int, bool] = {}
        vanished: list[int] = []
        for life, hostname, silent_seconds in lives:
            connected = is_connected(hostname)
            if connected is None:
                continue
            seen[life] = connected
            if not connected and life not in self._absent:
                if life in self._present:
                    vanished.append(life)
                self._absent[life] = Absence(now, silent_seconds)
        with_most = len(vanished) >= MOST_AT_ONCE and 2 * len(vanished) > len(self._present)
        if with_most:  # whoever was away before may have been unable to come back
            for absence in self._absent.values():
                absence.since = now
        for life in vanished if with_most else ():
            self._absent[life].with_most = True
        self._present = {life for life, connected in seen.items() if connected}
        self._absent = {life: absence for life, absence in self._absent.items() if seen.get(life) is False}
        return not with_most

    @property
    def anybody_absent(self) -> bool:
        """Whether a life is away."""
        return bool(self._absent)

    def absence(self, life: int) -> Absence | None:
        """Since when a life is away; None while it is connected, or where that is unknown."""
        return self._absent.get(life)

    def forget(self) -> None:
        """Forget all looks: the connection that looks was broken, and may have missed that workers came back."""
        self._absent.clear()
        self._present.clear()
