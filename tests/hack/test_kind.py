"""hack/kind as far as no Docker engine is needed: which one is chosen, what goes into a node image, the way to a port."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.errors import ControlPlaneError
from control_plane.programs import Program
from fleetpack.catalog import load_catalog
from kind_cluster import clusters, forwarding, node_image, own_engine
from kind_cluster.commands import run, without_proxies
from kind_cluster.engine import Engine, chosen_engine
from kind_cluster.node_programs import NODE_PROGRAMS, folder_digest
from kind_cluster.oci_archive import ImageConfiguration, write_archive

ROOT = Path(__file__).resolve().parents[2]
OTHER = "tcp://engine.example:2375"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that this machine has built or runs may matter here."""
    monkeypatch.setenv("FLEETPACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_should_use_the_engine_that_the_environment_names_before_any_other() -> None:
    assert chosen_engine(OTHER, own_runs=True) == Engine(docker_host=OTHER, is_own=False)


def test_should_know_the_own_engine_when_the_environment_names_it() -> None:
    own = own_engine.docker_host()

    assert chosen_engine(own, own_runs=True) == Engine(docker_host=own, is_own=True)


def test_should_use_the_own_engine_while_it_runs() -> None:
    assert chosen_engine(None, own_runs=True) == Engine(docker_host=own_engine.docker_host(), is_own=True)


@pytest.mark.parametrize("docker_host", [None, ""])
def test_should_leave_it_to_docker_where_to_look_otherwise(docker_host: str | None) -> None:
    assert chosen_engine(docker_host, own_runs=False) == Engine(docker_host=None, is_own=False)


def test_should_refuse_a_cache_whose_socket_path_the_kernel_would_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPACK_CACHE", "/" + "long/" * 25)

    with pytest.raises(ControlPlaneError, match="too long for a socket: set FLEETPACK_CACHE to a shorter path"):
        own_engine.docker_host()


def test_should_hand_no_proxy_to_nodes() -> None:
    environment = {"HTTPS_PROXY": "http://p", "no_proxy": "localhost", "PATH": "/bin"}

    assert without_proxies(environment) == {"PATH": "/bin"}


def test_should_say_what_failed_and_what_it_said() -> None:
    with pytest.raises(ControlPlaneError, match=r"asking nicely failed with exit code 3:\nno, thanks"):
        run(("sh", "-c", "echo no, thanks >&2; exit 3"), what="asking nicely")


# --- The programs and images that a cluster is made of


def put_kind(folder: Path) -> Path:
    folder.mkdir()
    program = folder / "kind"
    program.write_text("#!/bin/sh\necho kind v0.33.0 go1.26.8 linux/amd64\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("how", ["by its path", "by its name"])
def test_should_use_the_kind_that_the_environment_names_before_that_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    named, on_path = put_kind(tmp_path / "named"), put_kind(tmp_path / "path")
    other = named.rename(named.with_name("other-kind"))
    monkeypatch.setenv("PATH", f"{on_path.parent}:{other.parent}:/usr/bin:/bin")
    monkeypatch.setenv("KIND", str(other) if how == "by its path" else other.name)

    assert clusters.kind_program() == other


@pytest.mark.parametrize("kind", [None, ""])
def test_should_use_the_kind_on_the_path_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    on_path = put_kind(tmp_path / "path")
    monkeypatch.setenv("PATH", f"{on_path.parent}:/usr/bin:/bin")
    monkeypatch.delenv("KIND", raising=False)
    if kind is not None:
        monkeypatch.setenv("KIND", kind)

    assert clusters.kind_program() == on_path


def test_should_refuse_a_kind_that_is_not_there_rather_than_take_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{put_kind(tmp_path / 'path').parent}:/usr/bin:/bin")
    monkeypatch.setenv("KIND", "/nowhere/kind")

    with pytest.raises(ControlPlaneError, match="KIND=/nowhere/kind: no such program"):
        clusters.kind_program()


@pytest.mark.parametrize(
    ("named", "is_own", "image"),
    [
        ("mine:1", True, "mine:1"),
        ("mine:1", False, "mine:1"),
        ("", True, "ours:1"),
        ("", False, None),
        (None, True, "ours:1"),
        (None, False, None),
    ],
)
def test_should_take_the_named_node_image_then_ours_in_the_own_engine_then_kinds(
    monkeypatch: pytest.MonkeyPatch, named: str | None, is_own: bool, image: str | None
) -> None:
    monkeypatch.delenv("KIND_NODE_IMAGE", raising=False)
    if named is not None:
        monkeypatch.setenv("KIND_NODE_IMAGE", named)
    built: list[str] = []
    monkeypatch.setattr(node_image, "ensure_node_image", lambda: built.append("ours:1") or "ours:1")

    assert clusters.node_image_of(Engine(docker_host=OTHER, is_own=is_own)) == image
    assert built == (["ours:1"] if image == "ours:1" else [])


# --- The cluster's configuration


def test_should_publish_the_api_server_on_the_given_port_and_change_nothing_else() -> None:
    text = (ROOT / "kind-config.yaml").read_text()

    content = yaml.safe_load(clusters.configured(text, port=23456))

    expected = yaml.safe_load(text)
    expected["networking"] = {"apiServerAddress": "127.0.0.1", "apiServerPort": 23456}
    assert content == expected


def test_should_label_the_workers_as_machines_that_the_catalog_knows() -> None:
    nodes = yaml.safe_load((ROOT / "kind-config.yaml").read_text())["nodes"]
    types = [node["labels"]["node.kubernetes.io/instance-type"] for node in nodes if node["role"] == "worker"]

    assert types == ["inf2.24xlarge", "inf2.48xlarge", "trn1.32xlarge"]
    assert set(types) <= set(load_catalog().instance_types)


def test_should_name_the_file_when_a_record_cannot_be_read(own_cache: Path) -> None:
    folder = own_cache / "kind" / "clusters" / "broken"
    folder.mkdir(parents=True)
    (folder / "cluster.json").write_text("{")

    with pytest.raises(ControlPlaneError, match=r"clusters/broken/cluster\.json cannot be read"):
        clusters.read_state("broken")


# --- The node image

KIND_SOURCE = """package nodeimage

const kindnetdImage = "docker.io/kindest/kindnetd:v1"

const defaultCNIManifest = `
image: ` + kindnetdImage + `
subnet: {{ .PodSubnet }}
`
"""


def test_should_read_a_manifest_out_of_kinds_source_with_its_constants_filled_in() -> None:
    manifest = node_image.go_text(KIND_SOURCE, "defaultCNIManifest")

    assert manifest == "\nimage: docker.io/kindest/kindnetd:v1\nsubnet: {{ .PodSubnet }}\n"


def test_should_say_so_when_kinds_source_has_changed() -> None:
    with pytest.raises(ControlPlaneError, match="has no constant defaultStorageManifest where it was"):
        node_image.go_text(KIND_SOURCE, "defaultStorageManifest")


def test_should_read_the_pause_image_out_of_containerds_configuration() -> None:
    configuration = '[plugins]\n  # use fixed sandbox image\n  sandbox_image = "registry.k8s.io/pause:3.10"\n'

    assert node_image.pause_image(configuration) == "registry.k8s.io/pause:3.10"


@pytest.mark.parametrize("program", NODE_PROGRAMS, ids=lambda program: program.name)
def test_should_lock_the_version_of_each_program_of_a_node(program: Program) -> None:
    folder = program.modules_folder / program.module_folder
    module = (folder / "go.mod").read_text()

    assert (folder / "go.sum").exists()
    if program.package == ".":
        assert program.version.endswith(folder_digest(folder)[:8])
    else:
        assert f" v{program.version} " in module.replace("\n", " \n")
        assert program.package in module


def test_should_give_another_digest_when_a_file_changes_its_name_or_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    file = folder / "main.go"
    file.write_text("package main\n")
    first = folder_digest(folder)
    file.write_text("package main // changed\n")
    second = folder_digest(folder)
    file.rename(folder / "other.go")

    assert len({first, second, folder_digest(folder)}) == 3


# --- Images without an engine


def write_example(folder: Path, name: str) -> Path:
    root = folder / "root"
    (root / "bin").mkdir(parents=True, exist_ok=True)
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o755)
    if not (root / "bin" / "sh").is_symlink():
        (root / "bin" / "sh").symlink_to("tool")
    archive = folder / name
    write_archive(archive, root, ImageConfiguration(reference="example.org/tool:7", entrypoint=("/bin/tool",)))
    return archive


def blobs_of(archive: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with tarfile.open(archive) as file:
        contents = {}
        for member in file:
            content = file.extractfile(member)
            assert content is not None
            contents[member.name] = content.read()
    return json.loads(contents["index.json"]), contents


def test_should_write_an_image_whose_every_digest_is_true(tmp_path: Path) -> None:
    index, contents = blobs_of(write_example(tmp_path, "image.tar"))
    blobs = {name.rpartition("/")[2]: content for name, content in contents.items() if name.startswith("blobs/")}
    (listed,) = index["manifests"]
    manifest = json.loads(blobs[listed["digest"].removeprefix("sha256:")])
    image = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    layer = gzip.decompress(blobs[manifest["layers"][0]["digest"].removeprefix("sha256:")])

    assert {name: hashlib.sha256(content).hexdigest() for name, content in blobs.items()} == {
        name: name for name in blobs
    }
    assert image["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert image["config"]["Entrypoint"] == ["/bin/tool"]
    assert listed["annotations"]["io.containerd.image.name"] == "example.org/tool:7"
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        found = [(entry.name, entry.mode, entry.uid, entry.linkname) for entry in files]
    assert found == [("bin", 0o755, 0, ""), ("bin/sh", 0o777, 0, "tool"), ("bin/tool", 0o755, 0, "")]


def test_should_write_the_same_bytes_for_the_same_folder(tmp_path: Path) -> None:
    first, second = (write_example(tmp_path, name).read_bytes() for name in ("first.tar", "second.tar"))

    assert first == second


# --- The own engine's parts


def test_should_take_the_capability_out_of_what_runc_is_given_and_hand_everything_else_on(tmp_path: Path) -> None:
    bundle, process = tmp_path / "bundle", tmp_path / "process.json"
    bundle.mkdir()
    capabilities = ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_KILL"]
    specification = json.dumps({"process": {"capabilities": {"bounding": capabilities}}}, separators=(",", ":"))
    for file in (bundle / "config.json", process):
        file.write_text(specification)
    runc, wrapper = tmp_path / "runc", tmp_path / "wrapper"
    runc.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    wrapper.write_text(own_engine.RUNC_WRAPPER.replace("{runc}", str(runc)))
    for program in (runc, wrapper):
        program.chmod(0o755)
    words = ["create", "--bundle", str(bundle), "--process", str(process), "a name"]

    handed_on = run((wrapper, *words)).splitlines()

    assert handed_on == words
    left = {"process": {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"]}}}
    assert [json.loads(file.read_text()) for file in (bundle / "config.json", process)] == [left, left]


async def test_should_carry_a_connection_both_ways_until_both_sides_have_ended() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Answers only once the other side has said everything: the end must be carried too.
        writer.write((await reader.read()).upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    serving = asyncio.create_task(forwarding.serve(listening, server.sockets[0].getsockname()[1]))

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x" * 200_000)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), timeout=120)

    writer.close()
    serving.cancel()
    server.close()
    assert answer == b"X" * 200_000


# --- The suite without an engine


def run_suite(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    path = "/usr/local/bin:/usr/bin:/bin"
    return subprocess.run(
        command, cwd=ROOT, env={"PATH": path, **environment}, capture_output=True, text=True, check=False
    )


def test_should_say_in_the_last_lines_that_the_kind_suite_did_not_run(tmp_path: Path) -> None:
    answer = run_suite(
        "tests/kind/test_cluster.py", DOCKER_HOST=f"unix://{tmp_path}/none", FLEETPACK_CACHE=str(tmp_path)
    )

    last = answer.stdout.strip().splitlines()[-1]
    assert answer.returncode == 0
    assert re.fullmatch(r"The kind suite did NOT run \(\d+ tests\): no Docker engine.*`hack/kind engine up`.*", last)


def test_should_fail_when_the_kind_suite_must_run_and_cannot(tmp_path: Path) -> None:
    answer = run_suite(
        "tests/kind/test_cluster.py",
        DOCKER_HOST=f"unix://{tmp_path}/none", FLEETPACK_CACHE=str(tmp_path), FLEETPACK_KIND_REQUIRED="1",
    )  # fmt: skip

    assert answer.returncode == 4
    assert "the kind suite must run, and cannot: no Docker engine" in answer.stderr
