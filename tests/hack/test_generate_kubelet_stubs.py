"""The code for the kubelet's APIs is what protoc makes of the definitions beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import generate_kubelet_stubs


def test_should_find_the_checked_in_code_current() -> None:
    assert generate_kubelet_stubs.stale_files() == ()


def test_should_put_the_licence_and_the_origin_above_an_unchanged_definition() -> None:
    text = generate_kubelet_stubs.checked_in_proto("podresources/v1", 'syntax = "proto3";\n')
    assert text.startswith(
        "// Copyright The Kubernetes Authors.\n//\n// Licensed under the Apache License, Version 2.0"
    )
    assert text.endswith('k8s.io/kubelet@v0.36.1/pkg/apis/podresources/v1/api.proto\n\nsyntax = "proto3";\n')


@pytest.fixture
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of Go modules with nothing in it; code that is current."""
    monkeypatch.setenv("GOMODCACHE", str(tmp_path))
    monkeypatch.setattr(generate_kubelet_stubs, "generate", lambda _: {})
    monkeypatch.setattr(sys, "argv", ["generate_kubelet_stubs.py", "--check"])
    return tmp_path


def put_upstream(change: str = "") -> None:
    for api in generate_kubelet_stubs.APIS:
        own = generate_kubelet_stubs._SOURCE_ROOT / generate_kubelet_stubs._PACKAGE / api / "api.proto"
        upstream = generate_kubelet_stubs.upstream_path(api)
        upstream.parent.mkdir(parents=True)
        # Below the notice, which ends with the first empty line.
        upstream.write_text(own.read_text().partition("\n\n")[2] + change)


def test_should_say_that_it_compared_nothing_where_upstream_is_not_there(
    module_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_kubelet_stubs.main() == 0
    assert "NOT compared with k8s.io/kubelet@v0.36.1, which is not in Go's module cache" in capsys.readouterr().err


def test_should_be_silent_where_the_definitions_are_those_of_upstream(
    module_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_upstream()
    assert generate_kubelet_stubs.main() == 0
    assert capsys.readouterr().err == ""


def test_should_fail_where_upstream_says_something_else(module_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_upstream("message Other {}\n")
    assert generate_kubelet_stubs.main() == 1
    assert "deviceplugin/v1beta1/api.proto" in capsys.readouterr().err
