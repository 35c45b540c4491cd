"""The record of a cluster, its lock, and its ports."""

import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.cluster import down, remove_ownerless
from control_plane.command_lines import PORT_NAMES, Layout, command_line
from control_plane.errors import ControlPlaneError
from control_plane.folders import cache_root, cluster_folder, exclusive_lock
from control_plane.ports import free_ports, is_free
from control_plane.processes import ProcessRecord, start_time
from control_plane.state import ClusterState, read_state, write_state


def layout(folder: Path) -> Layout:
    names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
    return Layout(
        folder=folder,
        ports={name: 20000 + index for index, name in enumerate(PORT_NAMES)},
        binaries={name: Path("/bin") / name for name in names},
        pod_cidr="127.10.0.0/16",
    )


def test_should_read_back_the_cluster_it_wrote(tmp_path: Path) -> None:
    record = ProcessRecord(name="etcd", process_id=42, started="7 of boot x")
    owner = ProcessRecord(name="owner", process_id=43, started="8 of boot x")
    state = ClusterState(name="one", layout=layout(tmp_path), processes=(record,), owner=owner)

    write_state(state)

    assert read_state(tmp_path) == state


def test_should_find_no_cluster_in_an_empty_folder(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None


def test_should_not_take_an_unreadable_record_for_no_cluster(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{")

    with pytest.raises(ControlPlaneError, match=r"cluster\.json cannot be read"):
        read_state(tmp_path)


def test_should_choose_ports_that_are_free_and_different() -> None:
    ports = free_ports(PORT_NAMES)

    assert len(set(ports.values())) == len(PORT_NAMES)
    assert all(is_free(port) for port in ports.values())


def test_should_see_that_somebody_listens_on_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_should_let_one_in_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    order = []

    def second() -> None:
        with exclusive_lock(lock, waiting_for="the first"):
            order.append("second")

    thread = threading.Thread(target=second)
    with exclusive_lock(lock, waiting_for="nobody"):
        thread.start()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_should_not_share_a_lock_whose_file_the_holder_removed(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    order = []

    def waiter(name: str) -> None:
        with exclusive_lock(lock, waiting_for="the holder"):
            order.append(f"{name} in")
            order.append(f"{name} out")

    threads = [threading.Thread(target=waiter, args=(name,)) for name in ("a", "b")]
    with exclusive_lock(lock, waiting_for="nobody"):
        for thread in threads:
            thread.start()
            thread.join(timeout=0.1)
        lock.unlink()
    for thread in threads:
        thread.join()

    assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])


def test_should_keep_everything_below_the_chosen_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPACK_CACHE", str(tmp_path))

    assert (cache_root(), cluster_folder("a")) == (tmp_path, tmp_path / "clusters" / "a")


def test_should_use_the_desktop_cache_folder_where_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETPACK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert cache_root() == tmp_path / "fleetpack"


@pytest.mark.parametrize("name", ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"])
def test_should_listen_on_loopback_alone(name: str, tmp_path: Path) -> None:
    arguments = " ".join(command_line(name, layout(tmp_path)))

    assert "0.0.0.0" not in arguments
    assert "127.0.0.1" in arguments


def record_cluster(folder: Path, *, owner: ProcessRecord | None) -> None:
    folder.mkdir(parents=True)
    write_state(ClusterState(name=folder.name, layout=layout(folder), processes=(), owner=owner))


def test_should_remove_the_clusters_whose_owner_has_ended(tmp_path: Path) -> None:
    started = start_time(os.getpid())
    assert started is not None
    living = ProcessRecord(name="owner", process_id=os.getpid(), started=started)
    record_cluster(tmp_path / "kept-by-hand", owner=None)
    record_cluster(tmp_path / "of-a-living-run", owner=living)
    record_cluster(tmp_path / "of-a-dead-run", owner=replace(living, started="1 of boot another"))

    removed = remove_ownerless(tmp_path)

    assert removed == ("of-a-dead-run",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept-by-hand", "of-a-living-run"]


def test_should_remove_what_an_interrupted_start_left(tmp_path: Path) -> None:
    record_cluster(tmp_path / "half", owner=None)
    (tmp_path / "half" / "pki").mkdir()

    assert down(tmp_path / "half")

    assert list(tmp_path.iterdir()) == []


def test_should_have_nothing_to_take_down_where_nothing_is(tmp_path: Path) -> None:
    assert not down(tmp_path / "absent")
