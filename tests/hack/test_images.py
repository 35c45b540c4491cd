"""Which libraries an image gets, when an image is up to date, and that Dockerfile, chart and programs say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from images_build import engine, locks, wheels
from images_build.base import apt_mirror
from images_build.building import inputs_key, require_small
from images_build.images import (
    DOCKERFILE,
    FLEETPACK,
    IMAGES,
    PYTHON_VERSION,
    REPOSITORY,
    SIMULATED_ENGINE,
    default_base,
    digest_of_files,
    digest_of_texts,
    project_version,
    source_files,
)
from images_build.progress import ImagesError, run

LOCK = """\
# made by a program
click==8.5.1 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:cc
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:dd
numpy==2.5.1 ; python_full_version >= '3.12' \\
    --hash=sha256:ee
typing-extensions==4.16.0 \\
    --hash=sha256:ff
"""


def test_should_take_versions_and_hashes_of_the_lock_word_for_word() -> None:
    assert locks.subset(LOCK, ["typing-extensions", "click"]) == (
        "click==8.5.1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\ntyping-extensions==4.16.0 \\\n    --hash=sha256:ff\n"
    )


def test_should_drop_markers_which_were_decided_already() -> None:
    assert locks.subset(LOCK, ["colorama"]) == "colorama==0.4.6 \\\n    --hash=sha256:cc\n"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["click", "left-pad", "six"], "requirements.lock has no left-pad, six: run `make lock`"),
        (["numpy"], "requirements.lock has several versions of numpy, for different Pythons"),
    ],
)
def test_should_refuse_what_the_lock_does_not_decide(wanted: list[str], message: str) -> None:
    with pytest.raises(ImagesError, match=message):
        locks.subset(LOCK, wanted)


def test_should_read_names_as_indexes_write_them() -> None:
    assert locks.names("Typing_Extensions==4.16.0\nclick==8.5.1 ; sys_platform == 'linux'\n# via x==1\n") == (
        "typing-extensions",
        "click",
    )


def test_should_find_every_requirement_of_the_images_in_the_real_lock() -> None:
    known = locks.entries((REPOSITORY / "requirements.lock").read_text())

    assert set(SIMULATED_ENGINE.requirements) <= set(known)
    assert {"kopf", "grpcio", "aiohttp", "pytest"} <= set(known)


def test_should_have_a_target_and_a_lock_in_the_dockerfile_for_every_image() -> None:
    text = DOCKERFILE.read_text()

    for image in IMAGES:
        assert f" AS {image.target}\n" in text
        assert f"/wheels/{image.target}.lock" in text
        assert f'title="{image.name}"' in text


def test_should_build_on_the_python_that_the_wheels_are_for() -> None:
    assert default_base().startswith(f"python:{PYTHON_VERSION}")
    assert default_base().endswith("-slim-bookworm")


def test_should_be_called_as_the_chart_expects() -> None:
    chart = yaml.safe_load((REPOSITORY / "helm/fleetpack/Chart.yaml").read_text())
    values = yaml.safe_load((REPOSITORY / "helm/fleetpack/values.yaml").read_text())

    assert (values["image"]["repository"], chart["appVersion"]) == (FLEETPACK.name, project_version())
    assert values["devicePlugin"]["image"]["repository"] == ""


def test_should_know_another_key_for_any_change_of_what_goes_in(tmp_path: Path) -> None:
    libraries, program, other_program = tmp_path / "libraries", tmp_path / "program-1", tmp_path / "program-2"
    libraries.mkdir()
    lock = libraries / f"{FLEETPACK.target}.lock"
    lock.write_text("click==1\n")

    def key(program: Path, base_identity: str) -> str:
        return inputs_key(FLEETPACK, wheels.Wheels(libraries=libraries, program=program), base_identity)

    first, again = key(program, "sha256:1"), key(program, "sha256:1")
    other_source, other_base = key(other_program, "sha256:1"), key(program, "sha256:2")
    lock.write_text("click==2\n")
    other_lock = key(program, "sha256:1")

    assert first == again
    assert len({first, other_source, other_base, other_lock}) == 4


def test_should_digest_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("ab")
    two.write_text("c")
    before = digest_of_files([one, two], relative_to=tmp_path)
    one.write_text("a")
    two.write_text("bc")

    assert digest_of_files([one, two], relative_to=tmp_path) != before
    assert digest_of_texts("ab", "c") != digest_of_texts("a", "bc")


def test_should_make_the_wheel_of_every_source_file() -> None:
    names = {str(path.relative_to(REPOSITORY)) for path in source_files()}

    assert {
        "pyproject.toml",
        "operator/fleetpack/catalog/data/accelerators.yaml",
        "simulator/fleetpack_simulator/server.py",
    } <= names
    assert not any("__pycache__" in name for name in names)


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        ("deb [signed-by=/x.gpg] https://mirror.example/debian bookworm main\n", "https://mirror.example/debian"),
        ("Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n", "http://mirror.example/debian"),
        ("deb http://mirror.example/debian-security bookworm-security main\n", "http://deb.debian.org/debian"),
        ("# deb http://old.example/debian bookworm main\n", "http://deb.debian.org/debian"),
        ("", "http://deb.debian.org/debian"),
    ],
)
def test_should_fetch_a_base_from_where_apt_fetches(sources: str, mirror: str) -> None:
    assert apt_mirror(sources) == mirror


def test_should_show_the_end_of_what_a_failed_program_wrote() -> None:
    with pytest.raises(ImagesError, match=r"(?s)looking: sh failed with exit code 7.*no such thing"):
        run("looking", ["sh", "-c", "echo no such thing >&2; exit 7"])


def test_should_refuse_an_image_beyond_its_limit() -> None:
    require_small(FLEETPACK, FLEETPACK.size_limit_mb)
    with pytest.raises(ImagesError, match=r"fleetpack has 144 MB, more than its limit of 143 MB: .*docs/install\.md"):
        require_small(FLEETPACK, FLEETPACK.size_limit_mb + 1)


def test_should_tell_sizes_that_are_within_a_tenth_of_the_limits() -> None:
    page = (REPOSITORY / "docs" / "install.md").read_text()
    told = {
        image.name: int(re.findall(rf"^\| `{image.name}` \|.*\| (\d+) MB \|$", page, re.MULTILINE)[0])
        for image in IMAGES
    }

    assert {name: round(size_mb * 1.1) for name, size_mb in told.items()} == {
        image.name: image.size_limit_mb for image in IMAGES
    }


def test_should_build_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    engine.build(tmp_path, target="t", reference="r:1", arguments={"BASE_IMAGE": "b"}, labels={"a": "b"})

    built = calls.read_text().splitlines()[-1]
    assert built == f"build --network=none --target t --tag r:1 --build-arg BASE_IMAGE=b --label a=b {tmp_path}"
