"""The commands of `hack/kind`: parse, call, print.

Concept: standard output carries only the answer (a path, JSON, lines for a shell); everything said to a person who waits goes to
standard error. Exit code 0: done or healthy; 1: not so; 2: wrong usage.
Boundary: no logic of its own. Failure: a `ControlPlaneError` is printed as it is, without a traceback.
"""

import argparse
import json
import os
import re
import shlex
import signal
from dataclasses import asdict
from types import FrameType

from control_plane.binaries import ensure
from control_plane.errors import ControlPlaneError
from control_plane.processes import ProcessRecord, start_time
from control_plane.programs import KUBECTL
from control_plane.progress import say, speak_as
from kind_cluster import clusters, node_image, own_engine, packages
from kind_cluster.engine import find_engine

DEFAULT_NAME = "fleetpack"
EPILOG = """\
environment:
  DOCKER_HOST           the Docker engine; unset: the own one where it runs, else the machine's
  KIND                  the kind program; unset: the one on PATH, else one that is built here
  KIND_NODE_IMAGE       the image of the nodes; unset: kind's own, or in the own engine the one that is built here
  FLEETPACK_CACHE       root of what is built and recorded (default: $XDG_CACHE_HOME/fleetpack or ~/.cache/fleetpack)

examples:
  hack/kind engine up                  # only where there is no Docker: an engine of its own (Debian, as root)
  hack/kind up && eval "$(hack/kind env)"
  hack/kind load my-image:1
  hack/kind --name second up           # a second cluster beside the first
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    speak_as("kind")
    # A polite end takes what was started down again, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", options.name):
            raise ControlPlaneError(f"--name {options.name!r}: use lower-case letters, digits and dashes")
        return _run(options)
    except ControlPlaneError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _interrupt(_signal_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/kind",
        description="kind clusters with real kubelets and containers: one control plane and three workers (kind-config.yaml).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"which cluster (default: {DEFAULT_NAME})")
    common = argparse.ArgumentParser(add_help=False)
    # The same option after the command as well, where people write it; absent there, it changes nothing.
    common.add_argument("--name", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", parents=[common], help="create the cluster, or find it; prints the kubeconfig")
    up.add_argument(
        "--owner", type=int, metavar="PID", help="`prune` takes the cluster down once this process has ended"
    )
    commands.add_parser("down", parents=[common], help="delete the cluster")
    status = commands.add_parser("status", parents=[common], help="show its nodes; exit code 1 when it is not healthy")
    status.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser("kubeconfig", parents=[common], help="print the path of the administrator's kubeconfig")
    kubectl = commands.add_parser("kubectl", parents=[common], help="run the matching kubectl as administrator")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    load = commands.add_parser(
        "load", parents=[common], help="copy an image of the engine, or an archive, to every node"
    )
    load.add_argument("image", metavar="IMAGE|ARCHIVE")
    commands.add_parser(
        "env", parents=[common], help="print DOCKER_HOST, KUBECONFIG, KIND, KIND_NODE_IMAGE for a shell"
    )
    commands.add_parser("prune", parents=[common], help="take down the clusters whose owner has ended")
    engine = commands.add_parser("engine", parents=[common], help="the own Docker engine, for machines without one")
    engine.add_argument(
        "action",
        choices=("up", "down", "build", "status"),
        help="up: start it where no engine answers, with a node image; down: end it with all its clusters; "
        "build: the node image only; status: which engine answers",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.command == "engine":
        return _run_engine(options.action)
    if options.command == "prune":
        for name in clusters.remove_ownerless():
            say(f"took down {name}, whose owner has ended")
    elif options.command == "up":
        print(clusters.up(options.name, owner=_owner(options.owner)).kubeconfig)
    elif options.command == "down":
        say(f"{options.name} is down" if clusters.down(options.name) else f"{options.name} was not up")
    elif options.command == "status":
        return _print_status(options.name, clusters.status(options.name), as_json=options.json)
    else:
        _use(options, clusters.require_state(options.name))
    return 0


def _use(options: argparse.Namespace, state: clusters.KindState) -> None:
    """Do something with a cluster that is there."""
    if options.command == "kubeconfig":
        print(state.kubeconfig)
    elif options.command == "load":
        clusters.load(state, options.image)
    elif options.command == "env":
        for name, value in _environment(state).items():
            print(f"export {name}={shlex.quote(value)}")
    elif options.command == "kubectl":
        kubectl = str(ensure((KUBECTL,))["kubectl"])
        arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        os.execv(kubectl, [kubectl, f"--kubeconfig={state.kubeconfig}", *arguments])


def _environment(state: clusters.KindState) -> dict[str, str]:
    """Return what other programs need to know to use the cluster and its engine."""
    environment = {"KUBECONFIG": str(state.kubeconfig), "KIND": str(clusters.kind_program())}
    if state.docker_host is not None:
        environment["DOCKER_HOST"] = state.docker_host
    if (image := os.environ.get("KIND_NODE_IMAGE")) or state.is_own:
        environment["KIND_NODE_IMAGE"] = image or node_image.image_tag()
    return environment


def _run_engine(action: str) -> int:
    if action == "status":
        engine = find_engine()
        print(
            f"{'the own engine' if engine.is_own else 'an engine of this machine'}: {engine.docker_host or 'default'}"
        )
        return 0
    if action == "down":
        for name in clusters.names():
            if (state := clusters.read_state(name)) is not None and state.is_own:
                clusters.down(name)
        say("the own engine is down" if own_engine.down() else "the own engine was not up")
        return 0
    if action == "up" and _other_engine_answers():
        return 0
    if os.geteuid() != 0:
        raise ControlPlaneError("an own Docker engine needs root: run as root, or install Docker and start it")
    # A root of `su` may lack the folders of the system's own programs.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{packages.SYSTEM_FOLDERS}"
    packages.install_missing()
    was_started = own_engine.up()
    try:
        print(node_image.ensure_node_image())
    finally:
        if action == "build" and was_started:
            own_engine.down()
    return 0


def _other_engine_answers() -> bool:
    """Tell whether there is an engine already, so that no own one is needed."""
    try:
        engine = find_engine()
    except ControlPlaneError:
        return False
    if not engine.is_own:
        say(f"an engine answers already ({engine.docker_host or 'the default one'}): nothing to start")
    return not engine.is_own


def _owner(process_id: int | None) -> ProcessRecord | None:
    if process_id is None:
        return None
    started = start_time(process_id)
    if started is None:
        raise ControlPlaneError(f"--owner {process_id}: no such process")
    return ProcessRecord(name="owner", process_id=process_id, started=started)


def _print_status(name: str, status: clusters.KindStatus | None, *, as_json: bool) -> int:
    if status is None:
        print(json.dumps({"name": name, "healthy": False, "nodes": {}}) if as_json else f"{name}: down")
        return 1
    if as_json:
        print(json.dumps(asdict(status), indent=1))
        return 0 if status.healthy else 1
    print(f"{status.name}: {'healthy' if status.healthy else 'not healthy'}\n  kubeconfig {status.kubeconfig}")
    for node, what in status.nodes.items():
        print(f"  {node:28} {what}")
    return 0 if status.healthy else 1
