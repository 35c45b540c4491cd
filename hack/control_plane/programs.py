"""The programs of the control plane: which version, how each one tells its version, and how it is built from source.

Concept: one frozen `Program` per binary. Versions and every dependency are locked by `go/<module>/go.mod` and `go.sum`.
Boundary: data and version parsing; finding and building is `binaries.py`.
Failure: output that holds no version reads as None, and the binary is then not used.
"""

import re
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "1.36.1"
ETCD_VERSION = "3.7.3"
KWOK_VERSION = "0.8.0"
HELM_VERSION = "4.3.1"
KUBECONFORM_VERSION = "0.8.0"
KIND_VERSION = "0.33.0"
ACTIONLINT_VERSION = "1.7.12"
# The module's version; as a program it calls itself 3.15.0.
PROMETHEUS_VERSION = "0.315.0"

MODULES_FOLDER = Path(__file__).resolve().parent / "go"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One binary of the control plane and where it comes from."""

    name: str
    version: str
    # A binary found on the machine is used when its (major, minor) is one of these; none: only what is built here.
    accepted_minors: tuple[tuple[int, int], ...]
    version_arguments: tuple[str, ...]
    module_folder: str
    package: str
    linker_flags: str
    # Cold build, measured on two cores with the module cache filled; only said to the person who waits.
    build_core_seconds: int
    build_tags: str = ""
    modules_folder: Path = MODULES_FOLDER
    needs_c_compiler: bool = False

    @property
    def key(self) -> str:
        """Return the name of this program's folder in the cache."""
        return f"{self.name}-{self.version}"


_VERSION = re.compile(r"\bv?(\d+)\.(\d+)(?:\.(\d+))?")


def parse_version(output: str) -> tuple[int, int] | None:
    """Return the (major, minor) that a program's version output states, or None when it states none.

    A line that says `version` wins over the rest, because some programs print their Go version or a warning as well;
    kubectl's JSON names its own version `gitVersion`, apart from the version of its kustomize.
    """
    lines = output.splitlines()
    preferred = [line for line in lines if "gitVersion" in line]
    preferred += [line for line in lines if "version" in line.lower() and "go version" not in line.lower()]
    for line in [*preferred, *lines]:
        if "kustomize" in line.lower():
            continue
        if match := _VERSION.search(line):
            return int(match[1]), int(match[2])
    return None


def _kubernetes(name: str, *, version_arguments: tuple[str, ...], build_core_seconds: int) -> Program:
    major, minor, _ = KUBERNETES_VERSION.split(".")
    variables = f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES_VERSION}"
    variables += f" -X k8s.io/component-base/version.gitMajor={major}"
    variables += f" -X k8s.io/component-base/version.gitMinor={minor}"
    return Program(
        name=name,
        version=KUBERNETES_VERSION,
        accepted_minors=((int(major), int(minor)),),
        version_arguments=version_arguments,
        module_folder="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        linker_flags=f"-s -w {variables}",
        build_core_seconds=build_core_seconds,
    )


# For nodes in containers (hack/kind).
KUBELET = _kubernetes("kubelet", version_arguments=("--version",), build_core_seconds=110)
KUBEADM = _kubernetes("kubeadm", version_arguments=("version", "-o", "short"), build_core_seconds=60)
KUBE_PROXY = _kubernetes("kube-proxy", version_arguments=("--version",), build_core_seconds=45)
ETCD = Program(
    name="etcd",
    version=ETCD_VERSION,
    # Kubernetes 1.36 runs with either; older ones lack the watch progress that streaming lists need.
    accepted_minors=((3, 6), (3, 7)),
    version_arguments=("--version",),
    module_folder="etcd",
    package="go.etcd.io/etcd/server/v3",
    linker_flags="-s -w",
    build_core_seconds=110,
)
KUBE_APISERVER = _kubernetes("kube-apiserver", version_arguments=("--version",), build_core_seconds=400)
KUBE_CONTROLLER_MANAGER = _kubernetes(
    "kube-controller-manager", version_arguments=("--version",), build_core_seconds=140
)
KUBE_SCHEDULER = _kubernetes("kube-scheduler", version_arguments=("--version",), build_core_seconds=20)
KUBECTL = _kubernetes("kubectl", version_arguments=("version", "--client", "-o", "json"), build_core_seconds=75)
KWOK = Program(
    name="kwok",
    version=KWOK_VERSION,
    accepted_minors=((0, 8),),
    version_arguments=("--version",),
    module_folder="kwok",
    package="sigs.k8s.io/kwok/cmd/kwok",
    linker_flags="-s -w",
    build_core_seconds=240,
)
HELM = Program(
    name="helm",
    version=HELM_VERSION,
    accepted_minors=((4, 3),),
    version_arguments=("version", "--short"),
    module_folder="helm",
    package="helm.sh/helm/v4/cmd/helm",
    linker_flags=f"-s -w -X helm.sh/helm/v4/internal/version.version=v{HELM_VERSION}",
    build_core_seconds=290,
)
# For the chart's tests: objects against the API server's own schemas, and alert rules against made-up series.
KUBECONFORM = Program(
    name="kubeconform",
    version=KUBECONFORM_VERSION,
    accepted_minors=((0, 7), (0, 8)),
    version_arguments=("-v",),
    module_folder="kubeconform",
    package="github.com/yannh/kubeconform/cmd/kubeconform",
    linker_flags=f"-s -w -X main.version=v{KUBECONFORM_VERSION}",
    build_core_seconds=15,
)
PROMTOOL = Program(
    name="promtool",
    version=PROMETHEUS_VERSION,
    # Tests of rules have meant the same in all of them; Debian 12 has 2.42.
    accepted_minors=(*((2, minor) for minor in range(42, 56)), *((3, minor) for minor in range(20))),
    version_arguments=("--version",),
    module_folder="promtool",
    package="github.com/prometheus/prometheus/cmd/promtool",
    linker_flags="-s -w -X github.com/prometheus/common/version.Version=3.15.0",
    build_core_seconds=165,
    # Without the clients of two dozen clouds, which only finding targets needs: half the time to build.
    build_tags="remove_all_sd",
)
# For the test that lets the chart's alerts fire on a kind cluster.
PROMETHEUS = Program(
    name="prometheus",
    version=PROMETHEUS_VERSION,
    # What the test needs of it (discovery of Pods, rules, the API) has been there in all of them; Debian 12 has 2.42.
    accepted_minors=PROMTOOL.accepted_minors,
    version_arguments=("--version",),
    module_folder="promtool",
    package="github.com/prometheus/prometheus/cmd/prometheus",
    linker_flags="-s -w -X github.com/prometheus/common/version.Version=3.15.0",
    build_core_seconds=240,
    # Of the ways to find targets only files, HTTP and Kubernetes.
    build_tags="remove_all_sd,enable_kubernetes_sd",
)

KIND = Program(
    name="kind",
    version=KIND_VERSION,
    accepted_minors=tuple((0, minor) for minor in range(30, 45)),
    version_arguments=("version",),
    module_folder="kind",
    package="sigs.k8s.io/kind",
    linker_flags="-s -w",
    build_core_seconds=20,
)
# For the test of .github/workflows.
ACTIONLINT = Program(
    name="actionlint",
    version=ACTIONLINT_VERSION,
    accepted_minors=((1, 7),),
    version_arguments=("-version",),
    module_folder="actionlint",
    package="github.com/rhysd/actionlint/cmd/actionlint",
    linker_flags="-s -w",
    build_core_seconds=15,
)

# What a cluster runs, in the order of its start.
CONTROL_PLANE = (ETCD, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBE_SCHEDULER, KWOK)
PROGRAMS = {
    program.name: program
    for program in (*CONTROL_PLANE, KUBECTL, HELM, KUBECONFORM, PROMTOOL, PROMETHEUS, KIND, ACTIONLINT)
}
