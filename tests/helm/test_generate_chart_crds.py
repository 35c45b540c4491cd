"""The chart's copies of the CustomResourceDefinitions: complete, up to date, and safe from Helm's braces."""

import pytest

from generate_chart_crds import chart_template, stale_files

MANIFEST = """\
# Generated.
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: pools.example.dev}
spec:
  group: example.dev  # written as {{ braces }}
"""


def test_should_be_up_to_date() -> None:
    assert stale_files() == ()


def test_should_make_the_definition_optional_and_kept() -> None:
    assert chart_template(MANIFEST, "pools.yaml").splitlines()[1:] == [
        "{{- if .Values.crds.enabled }}",
        "apiVersion: apiextensions.k8s.io/v1",
        "kind: CustomResourceDefinition",
        "metadata:",
        "  name: pools.example.dev",
        "    {{- if .Values.crds.keep }}",
        "  annotations:",
        "    helm.sh/resource-policy: keep",
        "    {{- end }}",
        "spec:",
        '  group: example.dev  # written as {{ "{{" }} braces }}',
        "{{- end }}",
    ]


def test_should_keep_annotations_that_are_there() -> None:
    manifest = MANIFEST.replace("{name: pools.example.dev}", "{name: pools.example.dev, annotations: {a: b}}")
    assert chart_template(manifest, "pools.yaml").splitlines()[4:10] == [
        "metadata:",
        "  name: pools.example.dev",
        "  annotations:",
        "    a: b",
        "    {{- if .Values.crds.keep }}",
        "    helm.sh/resource-policy: keep",
    ]


def test_should_refuse_what_is_no_definition() -> None:
    with pytest.raises(ValueError, match=r"crds/pod\.yaml: expected one CustomResourceDefinition"):
        chart_template("kind: Pod\n", "pod.yaml")
