"""Settings: what the programs can be told, read once from file, environment and flags, and then frozen.

A later source wins: the TOML file, then the environment (``SWH_SCHED_RUNNER_RUNNER__BATCH_SIZE=500``, two
underscores between the parts of a name, lists and tables as JSON or TOML), then flags. Tables are merged key by
key. ``"off"`` stands for None where an option can be switched off.
"""

from swh_sched_runner.config.queues import least_limit, queue_name
from swh_sched_runner.config.secrets import mask
from swh_sched_runner.config.settings import (
    BrokerSettings,
    DatabaseSettings,
    ListenerSettings,
    LogSettings,
    PrunerSettings,
    QueueSettings,
    RescuerSettings,
    RunnerSettings,
    Settings,
    TaskSettings,
    VisitSettings,
    WebSettings,
)
from swh_sched_runner.config.show import as_toml, where_from
from swh_sched_runner.config.sources import COMMAND_LINE, load, log_format, read, shown, system_file_not_read

__all__ = [
    "COMMAND_LINE",
    "BrokerSettings",
    "DatabaseSettings",
    "ListenerSettings",
    "LogSettings",
    "PrunerSettings",
    "QueueSettings",
    "RescuerSettings",
    "RunnerSettings",
    "Settings",
    "TaskSettings",
    "VisitSettings",
    "WebSettings",
    "as_toml",
    "least_limit",
    "load",
    "log_format",
    "mask",
    "queue_name",
    "read",
    "shown",
    "system_file_not_read",
    "where_from",
]
