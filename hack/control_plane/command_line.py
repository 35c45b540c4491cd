"""The commands of `hack/cluster`: parse, call, print.

Concept: standard output carries only the answer (a path, JSON, a table), so that scripts can use it; everything said
to a person who waits goes to standard error. Exit code 0: done or healthy; 1: not so; 2: wrong usage.
Boundary: no logic of its own. Failure: a `ControlPlaneError` is printed as it is, without a traceback.
"""

import argparse
import json
import os
import re
import signal
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from control_plane import binaries, cluster
from control_plane.api_client import ApiClient, ApiError
from control_plane.command_lines import DEFAULT_POD_CIDR
from control_plane.errors import ControlPlaneError
from control_plane.folders import cluster_folder
from control_plane.identities import mint_service_account, mint_user
from control_plane.processes import ProcessRecord, start_time
from control_plane.programs import KUBECTL, PROGRAMS
from control_plane.progress import say

EPILOG = """\
environment:
  KUBEBUILDER_ASSETS    folder with binaries, looked at before PATH; wrong versions are passed over
  FLEETPACK_CACHE       root of built binaries and cluster states (default: $XDG_CACHE_HOME/fleetpack or ~/.cache/fleetpack)

examples:
  hack/cluster up && export KUBECONFIG=$(hack/cluster kubeconfig)
  hack/cluster kubectl get nodes
  hack/cluster service-account fleetpack-system fleetpack
  hack/cluster --name second up        # a second cluster beside the first, on other ports

hack/kind makes clusters with real kubelets and containers.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    # A polite end takes what was started down again, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options)
    except ControlPlaneError as error:
        say(str(error))
        return 1
    except ApiError as error:
        say(f"the API server refused: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _interrupt(_signal_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/cluster",
        description="A real Kubernetes control plane on this machine: etcd, kube-apiserver, kube-controller-manager, "
        "kube-scheduler and kwok, on loopback, with TLS and RBAC, without root or Docker.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_cluster_options(parser, default=True)
    # The same options after the command as well, where people write them; absent there, they change nothing.
    common = argparse.ArgumentParser(add_help=False)
    _add_cluster_options(common, default=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up", parents=[common], help="start the cluster, or find it running; prints the kubeconfig"
    )
    up.add_argument(
        "--pod-cidr", default=DEFAULT_POD_CIDR, help=f"addresses of simulated Pods (default {DEFAULT_POD_CIDR})"
    )
    up.add_argument(
        "--owner", type=int, metavar="PID", help="`prune` takes the cluster down once this process has ended"
    )
    commands.add_parser("down", parents=[common], help="end its processes and remove its state folder")
    status = commands.add_parser(
        "status", parents=[common], help="show its programs; exit code 1 when it is not healthy"
    )
    status.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser("kubeconfig", parents=[common], help="print the path of the administrator's kubeconfig")
    user = commands.add_parser("user", parents=[common], help="write a kubeconfig for a user, print its path")
    user.add_argument("user")
    user.add_argument("--group", action="append", default=[], help="a group of the user; may be repeated")
    account = commands.add_parser(
        "service-account",
        parents=[common],
        help="write a kubeconfig with a service account's token (24 h), print its path",
    )
    account.add_argument("namespace")
    account.add_argument("account")
    account.add_argument("--create", action="store_true", help="create namespace and service account where absent")
    kubectl = commands.add_parser("kubectl", parents=[common], help="run the matching kubectl as administrator")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    binary = commands.add_parser("binary", help="print a program's path, building it when needed")
    binary.add_argument("program", choices=sorted(PROGRAMS))
    commands.add_parser("prune", help="take down the clusters whose owner has ended")
    return parser


def _add_cluster_options(parser: argparse.ArgumentParser, *, default: bool) -> None:
    parser.add_argument(
        "--name", default="default" if default else argparse.SUPPRESS, help="which cluster (default: default)"
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", default=None if default else argparse.SUPPRESS,
        help="its state folder (default: clusters/NAME in the cache)",
    )  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    if options.command == "binary":
        program = PROGRAMS[options.program]
        print(binaries.ensure((program,))[program.name])
        return 0
    if options.command == "prune":
        for name in cluster.remove_ownerless(cluster_folder("x").parent):
            say(f"took down {name}, whose owner has ended")
        return 0
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", options.name):
        raise ControlPlaneError(f"--name {options.name!r}: use lower-case letters, digits and dashes")
    folder = options.state.expanduser().resolve() if options.state else cluster_folder(options.name)
    return _run_on_programs(options, folder)


def _run_on_programs(options: argparse.Namespace, folder: Path) -> int:
    if options.command == "up":
        state = cluster.up(options.name, folder, pod_cidr=options.pod_cidr, owner=_owner(options.owner))
        print(state.layout.admin_kubeconfig)
        return 0
    if options.command == "down":
        say(f"{options.name} is down" if cluster.down(folder) else f"{options.name} was not up")
        return 0
    if options.command == "status":
        return _print_status(options.name, cluster.status(folder), as_json=options.json)
    state = cluster.require_state(folder)
    if options.command == "kubeconfig":
        print(state.layout.admin_kubeconfig)
    elif options.command == "user":
        print(mint_user(state.layout, options.user, tuple(options.group)))
    elif options.command == "service-account":
        with ApiClient(state.layout.admin_kubeconfig) as client:
            if options.create:
                _create_service_account(client, options.namespace, options.account)
            print(mint_service_account(client, state.layout, namespace=options.namespace, name=options.account))
    elif options.command == "kubectl":
        kubectl = str(binaries.ensure((KUBECTL,))["kubectl"])
        arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        os.execv(kubectl, [kubectl, f"--kubeconfig={state.layout.admin_kubeconfig}", *arguments])
    return 0


def _owner(process_id: int | None) -> ProcessRecord | None:
    if process_id is None:
        return None
    started = start_time(process_id)
    if started is None:
        raise ControlPlaneError(f"--owner {process_id}: no such process")
    return ProcessRecord(name="owner", process_id=process_id, started=started)


def _print_status(name: str, status: cluster.ClusterStatus | None, *, as_json: bool) -> int:
    if status is None:
        print(json.dumps({"name": name, "healthy": False, "programs": []}) if as_json else f"{name}: down")
        return 1
    if as_json:
        print(json.dumps(asdict(status), indent=1, default=str))
        return 0 if status.healthy else 1
    print(f"{status.name}: {'healthy' if status.healthy else 'not healthy'}, {status.server}")
    print(f"  kubeconfig {status.kubeconfig}\n  audit log  {status.audit_log}")
    for program in status.programs:
        memory = f"{program.resident_mebibytes:5.0f} MiB" if program.resident_mebibytes is not None else ""
        what = f"process {program.process_id}, port {program.port} {memory}" if program.alive else "not running"
        print(f"  {program.name:24} {what}")
    return 0 if status.healthy else 1


def _create_service_account(client: ApiClient, namespace: str, name: str) -> None:
    """Create namespace and account; an account that a chart is to bring must not be made here first."""
    objects = {
        "/api/v1/namespaces": {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        f"/api/v1/namespaces/{namespace}/serviceaccounts": {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name},
        },
    }
    for path, body in objects.items():
        try:
            client.create(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
