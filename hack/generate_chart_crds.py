"""Copies the CustomResourceDefinitions of `crds/` into the chart, as templates.

Helm installs what lies in a chart's `crds/` folder once and never upgrades it, and cannot read outside the chart. So
the chart carries a copy of each file under `templates/crds/`, behind `crds.enabled`, with the annotation that makes an
uninstall leave the definitions (and with them all InferenceDeployments) where `crds.keep` is set.

Boundary: `crds/` is the source, itself generated from the API types; nothing here reads or judges a schema. `--check`
writes nothing and fails when a copy is missing, stale or left over, naming the files and the command that mends it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).resolve().parents[1]
_SOURCE = _ROOT / "crds"
_TARGET = _ROOT / "helm" / "fleetpack" / "templates" / "crds"

_HEADER = "{{- /* Generated from crds/ by hack/generate_chart_crds.py; change the API types, not this file. */ -}}\n"
_KEEP = "    {{- if .Values.crds.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}\n"


def chart_template(manifest: str, name: str) -> str:
    """Return one CRD's manifest as a chart template; raises `ValueError` where it is no CRD."""
    document = yaml.safe_load(manifest)
    if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
        raise ValueError(f"crds/{name}: expected one CustomResourceDefinition")
    # A description may hold braces that Helm would take for an action.
    lines = manifest.replace("{{", '{{ "{{" }}').splitlines(keepends=True)
    start = next(index for index, line in enumerate(lines) if line.startswith("metadata:"))
    end = next(index for index, line in enumerate(lines) if index > start and not line.startswith((" ", "#")))
    body = [line for line in lines[:start] if not line.startswith(("#", "---"))]
    body += [_metadata(document["metadata"]), *lines[end:]]
    return _HEADER + "{{- if .Values.crds.enabled }}\n" + "".join(body) + "{{- end }}\n"


def _metadata(metadata: dict[str, Any]) -> str:
    """Write the metadata with the annotation that Helm reads; all else of the manifest is taken over as text."""
    own = {name: value for name, value in metadata.items() if name != "annotations"}
    annotations = metadata.get("annotations") or {}
    head = yaml.safe_dump({"metadata": own}, sort_keys=False, width=1000)
    if not annotations:
        return head + _KEEP.replace("keep }}\n", "keep }}\n  annotations:\n", 1)
    dumped = yaml.safe_dump(annotations, width=1000).splitlines()
    return head + "  annotations:\n" + "".join(f"    {line}\n" for line in dumped) + _KEEP


def expected_templates() -> dict[str, str]:
    """Return file name to content of all templates that the chart should have."""
    return {path.name: chart_template(path.read_text(), path.name) for path in sorted(_SOURCE.glob("*.yaml"))}


def stale_files() -> tuple[str, ...]:
    """Return the names that are missing, differ, or have no source any more."""
    expected = expected_templates()
    present = {path.name: path.read_text() for path in _TARGET.glob("*.yaml")}
    return tuple(sorted(name for name in expected | present if expected.get(name) != present.get(name)))


def write() -> None:
    """Make the chart's folder hold exactly the expected templates."""
    _TARGET.mkdir(parents=True, exist_ok=True)
    expected = expected_templates()
    for path in _TARGET.glob("*.yaml"):
        if path.name not in expected:
            path.unlink()
    for name, content in expected.items():
        (_TARGET / name).write_text(content)


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Copy crds/ into the chart's templates.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a copy is not up to date")
    if not parser.parse_args().check:
        write()
        return 0
    stale = stale_files()
    if stale:
        print(
            f"chart CRDs are not up to date: {', '.join(stale)}. Run: .venv/bin/python hack/generate_chart_crds.py",
            file=sys.stderr,
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
