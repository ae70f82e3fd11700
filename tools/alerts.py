"""The page ``docs/reference/alerts.md``, made of the rules of Prometheus. ``python -m tools.alerts`` writes it anew."""

from __future__ import annotations

import re

from tests.support.sources import CHECKOUT

FILE = CHECKOUT / "docs" / "reference" / "alerts.md"
RULES = CHECKOUT / "deploy" / "prometheus" / "alerts.yml"
HEAD = """\
# Alerts

<!-- Made of deploy/prometheus/alerts.yml by `make reference`; a test compares. -->

The rules of [`deploy/prometheus/alerts.yml`](../../deploy/prometheus/alerts.yml). Each name leads to what it means and
what to do. [Monitoring](../how-to/monitoring.md#prometheus) says how to load them; [metrics](metrics.md) explains what
they compare.
"""
FIELD = re.compile(r"^ +(?:- )?(alert|expr|for|labels|summary): +(.+?)(?:  #.*)?$", re.MULTILINE)


def rules() -> list[dict[str, str]]:
    """Each rule: alert, expr, for, labels and summary, as they are written, each on one line."""
    _, *texts = re.split(r"^(?= +- alert: )", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [dict(FIELD.findall(text)) for text in texts]


def draw() -> str:
    """The page as it should be."""
    return "\n".join([HEAD, "| alert | severity | says | condition |\n|---|---|---|---|", *map(_row, rules()), ""])


def _row(rule: dict[str, str]) -> str:
    name, severity = rule["alert"], rule["labels"].removeprefix("{severity: ").removesuffix("}")
    says = re.sub(r"\{\{ \$(?:labels\.)?(\w+)[^}]*\}\}", r"*\1*", rule["summary"].strip('"'))
    condition = f"`{rule['expr']}`" + (f" for {rule['for']}" if "for" in rule else "")
    return f"| [{name}](../how-to/runbooks.md#{name.lower()}) | {severity} | {says} | {condition} |"


def main() -> None:
    FILE.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
