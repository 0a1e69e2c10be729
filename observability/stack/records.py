"""The programs of the pipeline as plain records: what each is called and how to get it.

Where one is on this machine: programs.py. How one is started: services.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        name: what we call it; `TAGTRAIL_<NAME>_BIN` names its file, `-` written as `_`.
        executables: names it has on `PATH`, the likeliest first.
        how_to_get: a sentence for who lacks it.
    """

    name: str
    executables: tuple[str, ...]
    how_to_get: str

    @property
    def variable(self) -> str:
        """The environment variable that names its file."""
        return f"TAGTRAIL_{self.name.upper().replace('-', '_')}_BIN"


PROMETHEUS = Program(
    "prometheus", ("prometheus",), "On Debian and Ubuntu: apt-get install prometheus."
)
PROMTOOL = Program("promtool", ("promtool",), "It comes with Prometheus.")
ALERTMANAGER = Program(
    "alertmanager",
    ("alertmanager", "prometheus-alertmanager"),
    "On Debian and Ubuntu: apt-get install prometheus-alertmanager.",
)
LOKI = Program("loki", ("loki",), "Releases: https://github.com/grafana/loki/releases.")
PROMTAIL = Program(
    "promtail",
    ("promtail",),
    "The last one is 3.6, of https://github.com/grafana/loki/releases. Alloy took its place.",
)
ALLOY = Program("alloy", ("alloy",), "Releases: https://github.com/grafana/alloy/releases.")
GRAFANA = Program(
    "grafana",
    ("grafana", "grafana-server"),
    "Packages and archives: https://grafana.com/grafana/download.",
)
VICTORIA_LOGS = Program(
    "victoria-logs",
    ("victoria-logs", "victoria-logs-prod"),
    "'make tools' in Tagtrail's repository builds it; releases: "
    "https://github.com/VictoriaMetrics/VictoriaLogs/releases.",
)
VLAGENT = Program(
    "vlagent",
    ("vlagent", "vlagent-prod"),
    "'make tools' in Tagtrail's repository builds it; it comes with VictoriaLogs.",
)
