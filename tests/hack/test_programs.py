"""Which binaries found on a machine are used: those that state the right minor version, and no others."""

import os
from pathlib import Path

import pytest

from control_plane import binaries
from control_plane.golang import is_new_enough, locked_version
from control_plane.programs import (
    ETCD,
    HELM,
    KUBE_APISERVER,
    KUBECTL,
    KWOK,
    MODULES_FOLDER,
    PROGRAMS,
    Program,
    parse_version,
)

KUBECTL_JSON = """{
  "clientVersion": {
    "major": "1",
    "minor": "32+",
    "gitVersion": "v1.32.4-dispatcher",
    "goVersion": "go1.23.8"
  },
  "kustomizeVersion": "v5.5.0"
}"""
ETCD_OUTPUT = "etcd Version: 3.7.3\nGit SHA: Not provided\nGo Version: go1.26.8\nGo OS/Arch: linux/amd64\n"


@pytest.mark.parametrize(
    ("output", "minor"),
    [
        ("Kubernetes v1.36.1\n", (1, 36)),
        (KUBECTL_JSON, (1, 32)),
        (ETCD_OUTPUT, (3, 7)),
        ("kwok version v0.8.0 go1.26.8 (linux/amd64)\n", (0, 8)),
        ("v4.3.1+g1234567\n", (4, 3)),
        ("v4.3+unreleased\n", (4, 3)),
        ("command not understood\n", None),
        ("", None),
    ],
)
def test_should_read_the_version_that_a_program_states(output: str, minor: tuple[int, int] | None) -> None:
    assert parse_version(output) == minor


def fake_program(folder: Path, name: str, output: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing but a shell: no assets, no cache."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("FLEETPACK_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "path"
    path.mkdir()
    (path / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(path))
    return tmp_path


def test_should_find_nothing_on_an_empty_machine(empty_machine: Path) -> None:
    assert [binaries.find(program) for program in PROGRAMS.values()] == [None] * len(PROGRAMS)


def test_should_pass_over_a_binary_on_path_of_another_minor(empty_machine: Path) -> None:
    fake_program(empty_machine / "path", "kubectl", KUBECTL_JSON)

    assert binaries.find(KUBECTL) is None


def test_should_use_a_binary_on_path_of_the_right_minor(empty_machine: Path) -> None:
    file = fake_program(empty_machine / "path", "kwok", "kwok version v0.8.2 go1.26.8 (linux/amd64)")

    assert binaries.find(KWOK) == file


def test_should_prefer_the_assets_folder_to_path(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(empty_machine / "path", "kube-apiserver", "Kubernetes v1.36.1")
    asset = fake_program(empty_machine / "assets", "kube-apiserver", "Kubernetes v1.36.4")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(empty_machine / "assets"))

    assert binaries.find(KUBE_APISERVER) == asset


def test_should_look_on_path_when_the_assets_are_of_another_minor(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = fake_program(empty_machine / "path", "etcd", ETCD_OUTPUT)
    fake_program(empty_machine / "assets", "etcd", "etcd Version: 3.4.23")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(empty_machine / "assets"))

    assert binaries.find(ETCD) == on_path


def test_should_use_what_the_cache_holds(empty_machine: Path) -> None:
    file = fake_program(binaries.cached_path(HELM).parent, "helm", "v4.3.1")

    assert binaries.find(HELM) == file


def test_should_not_take_a_folder_or_a_broken_file_for_a_program(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = empty_machine / "assets"
    (assets / "etcd").mkdir(parents=True)
    (assets / "kwok").write_text("not executable")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))

    assert (binaries.find(ETCD), binaries.find(KWOK)) == (None, None)


@pytest.mark.parametrize(
    ("output", "enough"),
    [
        ("go version go1.26.8 linux/amd64", True),
        ("go version go1.27rc1 linux/amd64", True),
        ("go version go1.25.9 linux/amd64", False),
        ("", False),
    ],
)
def test_should_accept_a_go_that_can_build_the_locked_modules(output: str, enough: bool) -> None:
    assert is_new_enough(output) is enough


def test_should_lock_a_toolchain_that_is_new_enough_itself() -> None:
    assert is_new_enough(f"go version go{locked_version()} linux/amd64")


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_should_lock_the_version_of_each_program_in_its_module(program: Program) -> None:
    module = (MODULES_FOLDER / program.module_folder / "go.mod").read_text()

    assert f" v{program.version} " in module.replace("\n", " \n")
    assert program.package in module
    assert os.path.exists(MODULES_FOLDER / program.module_folder / "go.sum")
