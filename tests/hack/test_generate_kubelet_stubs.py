"""The code for the kubelet's APIs is what protoc makes of the definitions beside it."""

from __future__ import annotations

import generate_kubelet_stubs


def test_should_find_the_checked_in_code_current() -> None:
    assert generate_kubelet_stubs.stale_files() == ()


def test_should_put_the_licence_and_the_origin_above_an_unchanged_definition() -> None:
    text = generate_kubelet_stubs.checked_in_proto("podresources/v1", 'syntax = "proto3";\n')
    assert text.startswith(
        "// Copyright The Kubernetes Authors.\n//\n// Licensed under the Apache License, Version 2.0"
    )
    assert text.endswith('k8s.io/kubelet@v0.36.1/pkg/apis/podresources/v1/api.proto\n\nsyntax = "proto3";\n')
