"""The demo's picture: one frame of the fleet as text for a terminal. Values in, a rich renderable out; nothing is read here.

Each node is a row of cores in device order, `|` between devices; each model has a colour and a letter, upper case when the replica
is ready, lower case while it loads, `~` while it drains, `·` for a free core.
"""

import io
import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fleetpack.catalog import load_catalog
from fleetpack.core.cores import core_ids, parse_cores

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(slots=True)
class ModelLine:
    """The numbers of one model in one frame."""

    name: str
    letter: str
    colour: str
    mode: str
    desired: int
    ready: int
    replicas: int
    waiting: float | None
    arrival_rate: float | None
    usd_per_hour: float


@dataclass(slots=True)
class Frame:
    """Everything that one picture shows."""

    seconds: float
    title: str
    models: list[ModelLine]
    nodes: list[dict[str, Any]]
    pods: list[dict[str, Any]]
    decisions: list[str]
    loads: list[str]
    node_usd_per_hour: float
    history: dict[str, deque[int]] = field(default_factory=dict)


def draw(frame: Frame) -> RenderableType:
    """Return the whole picture."""
    return Group(
        Text(frame.title, style="bold"),
        _models(frame),
        Panel(
            _fleet(frame), title=f"cores: {frame.node_usd_per_hour:.2f} USD per hour for the nodes", title_align="left"
        ),
        Panel(Text("\n".join(frame.decisions[-7:]) or "none yet"), title="last decisions", title_align="left"),
        Text("   ".join(frame.loads), style="dim"),
    )


def save_picture(frame: Frame, path: Path) -> None:
    """Write the picture as an SVG file, for documentation."""
    canvas = Console(width=118, record=True, file=io.StringIO(), force_terminal=True)
    canvas.print(draw(frame))
    # The theme's fonts would be loaded from elsewhere; a page must look the same offline.
    svg = re.sub(r"@font-face \{.*?\}", "", canvas.export_svg(title="make demo"), flags=re.DOTALL)
    path.write_text(svg)


def _models(frame: Frame) -> Table:
    table = Table(expand=True)
    for heading in ("model", "mode", "wanted", "ready", "starting", "queue", "requests/s", "USD/h"):
        table.add_column(heading, justify="left" if heading in ("model", "mode") else "right", no_wrap=True)
    table.add_column("replicas over time", no_wrap=True, ratio=1)
    for model in frame.models:
        table.add_row(
            Text(f"{model.letter} {model.name}", style=model.colour),
            model.mode,
            str(model.desired),
            str(model.ready),
            str(max(0, model.replicas - model.ready)),
            "-" if model.waiting is None else f"{model.waiting:.0f}",
            "-" if model.arrival_rate is None else f"{model.arrival_rate:.1f}",
            f"{model.usd_per_hour:.2f}",
            Text(sparkline(frame.history.get(model.name, deque())), style=model.colour),
        )
    return table


def sparkline(numbers: "deque[int]", width: int = 30) -> str:
    """Return the last `width` numbers as bars, scaled to the largest of all."""
    largest = max(numbers, default=0)
    if largest == 0:
        return ""
    shown = list(numbers)[-width:]
    return "".join(_BARS[min(8, -(-number * 8 // largest))] for number in shown)


def _fleet(frame: Frame) -> Text:
    letters = {model.name: model for model in frame.models}
    picture = Text(no_wrap=True, overflow="ellipsis")
    for node in frame.nodes:
        name = node["metadata"]["name"]
        instance_type = load_catalog().instance_types[node["metadata"]["labels"]["node.kubernetes.io/instance-type"]]
        cells: list[tuple[str, str]] = [("·", "dim")] * instance_type.cores
        for pod in frame.pods:
            if pod.get("spec", {}).get("nodeName") == name:
                for core in core_ids(parse_cores(pod["metadata"]["annotations"].get("fleetpack.dev/cores", ""))):
                    cells[core] = _cell(pod, letters)
        ready = any(
            entry["type"] == "Ready" and entry["status"] == "True" for entry in node["status"].get("conditions", ())
        )
        picture.append(f"{name:<30} ", style="bold" if ready else "dim")
        for core, (sign, style) in enumerate(cells):
            if core % instance_type.cores_per_device == 0:
                picture.append("|", style="dim")
            picture.append(sign, style=style)
        picture.append("|" if ready else "| booting", style="dim")
        picture.append("\n")
    if not frame.nodes:
        picture.append("no node yet")
    return picture


def _cell(pod: dict[str, Any], letters: dict[str, ModelLine]) -> tuple[str, str]:
    model = letters.get(pod["metadata"]["labels"]["fleetpack.dev/deployment"])
    if model is None:
        return "?", "red"
    if "deletionTimestamp" in pod["metadata"] or pod["metadata"]["labels"].get("fleetpack.dev/serving") == "false":
        return "~", model.colour
    ready = any(
        entry["type"] == "Ready" and entry["status"] == "True" for entry in pod.get("status", {}).get("conditions", ())
    )
    return (model.letter.upper(), f"bold {model.colour}") if ready else (model.letter.lower(), model.colour)
