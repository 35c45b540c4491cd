"""Building a program into the cache: once, whole or not at all, and saying so; with a stand-in for `go`."""

import threading
from pathlib import Path

import pytest

from control_plane import binaries
from control_plane.errors import ControlPlaneError
from control_plane.programs import KWOK

# Understands `version` and `build ... -o FILE PACKAGE`; counts its builds in the folder it lies in.
STAND_IN = """#!/bin/sh
case "$1" in version) echo "go version go1.26.8 linux/amd64"; exit 0;; esac
echo one >> "$(dirname "$0")/builds"
echo "go: downloading example.com/module v1.0.0"
echo "example.com/module/package"
{behaviour}
while [ "$1" != -o ]; do shift; done
echo built > "$2"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only Go is the stand-in and whose cache is empty."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("FLEETPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def put_go(machine: Path, behaviour: str = "") -> None:
    go = machine / "go"
    go.write_text(STAND_IN.format(behaviour=behaviour))
    go.chmod(0o755)


def builds(machine: Path) -> int:
    return len((machine / "builds").read_text().splitlines())


def test_should_build_once_and_find_it_from_then_on(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_go(machine)

    paths = [binaries.ensure((KWOK,))["kwok"] for _ in range(2)]

    assert paths == [binaries.cached_path(KWOK)] * 2
    assert (paths[0].read_text(), builds(machine)) == ("built\n", 1)
    said = capsys.readouterr().err
    assert "building kwok from source, once" in said
    assert f"built kwok {KWOK.version} in" in said


def test_should_leave_nothing_in_the_cache_when_a_build_fails(machine: Path) -> None:
    put_go(machine, behaviour='echo "package.go:1: no such thing"; exit 1')

    with pytest.raises(ControlPlaneError, match=r"(?s)building kwok .* failed.*no such thing"):
        binaries.ensure((KWOK,))

    assert binaries.find(KWOK) is None
    assert list(binaries.cached_path(KWOK).parent.iterdir()) == []


def test_should_build_once_when_two_ask_at_the_same_time(machine: Path) -> None:
    put_go(machine, behaviour="sleep 0.3")
    threads = [threading.Thread(target=binaries.ensure, args=((KWOK,),)) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert builds(machine) == 1


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ([], "looking at what is there already"),
        (["go: downloading a v1\n", "go: downloading b v2\n"], "2 modules fetched"),
        (["go: downloading a v1\n", "errors\n", "io/fs\n"], "2 packages compiled, now io/fs"),
    ],
)
def test_should_say_how_far_a_build_is(output: list[str], words: str) -> None:
    assert binaries.build_progress(output) == words
