"""The command line of each program of a cluster: every flag with the reason why it is not the default.

Concept: functions of the cluster's layout (folder, ports, binaries) that return an argument list.
Boundary: nothing is started here. Failure: none; a flag that a program does not know shows in its log.
"""

from dataclasses import dataclass
from pathlib import Path

STAGES_FOLDER = Path(__file__).resolve().parent / "stages"
AUDIT_POLICY = Path(__file__).resolve().parent / "audit-policy.yaml"

PORT_NAMES = ("etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
SERVICE_CIDR = "10.96.0.0/16"
# The first address of the Service range: the Service `kubernetes` in every cluster.
SERVICE_ADDRESS = "10.96.0.1"
SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"
DEFAULT_POD_CIDR = "127.10.0.0/16"
NODE_ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a cluster keeps its files and on which ports of 127.0.0.1 its programs listen."""

    folder: Path
    ports: dict[str, int]
    binaries: dict[str, Path]
    pod_cidr: str

    @property
    def certificates(self) -> Path:
        """Return the folder of keys and certificates."""
        return self.folder / "pki"

    @property
    def kubeconfigs(self) -> Path:
        """Return the folder of kubeconfigs."""
        return self.folder / "kubeconfigs"

    @property
    def admin_kubeconfig(self) -> Path:
        """Return the kubeconfig of the cluster's administrator."""
        return self.kubeconfigs / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Return the API server's audit log, one JSON event per line."""
        return self.folder / "audit.log"

    @property
    def logs(self) -> Path:
        """Return the folder of the programs' own logs."""
        return self.folder / "logs"

    @property
    def server(self) -> str:
        """Return the API server's address."""
        return f"https://127.0.0.1:{self.ports['kube-apiserver']}"

    def kubeconfig(self, name: str) -> Path:
        """Return the path of a kubeconfig by the name of its identity."""
        return self.kubeconfigs / f"{name}.kubeconfig"


def command_line(name: str, layout: Layout) -> list[str]:
    """Return the whole command that starts the program `name`."""
    builders = {
        "etcd": _etcd,
        "kube-apiserver": _kube_apiserver,
        "kube-controller-manager": _kube_controller_manager,
        "kube-scheduler": _kube_scheduler,
        "kwok": _kwok,
    }
    return [str(layout.binaries[name]), *builders[name](layout)]


def _etcd(layout: Layout) -> list[str]:
    pki = layout.certificates
    client, peer = (f"https://127.0.0.1:{layout.ports[name]}" for name in ("etcd", "etcd-peer"))
    return [
        "--name=etcd",
        f"--data-dir={layout.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=etcd={peer}",
        # Without these anybody on the machine could write past the API server.
        "--client-cert-auth",
        f"--trusted-ca-file={pki / 'etcd-authority.crt'}",
        f"--cert-file={pki / 'etcd.crt'}",
        f"--key-file={pki / 'etcd.key'}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={pki / 'etcd-authority.crt'}",
        f"--peer-cert-file={pki / 'etcd.crt'}",
        f"--peer-key-file={pki / 'etcd.key'}",
        # The data is thrown away with the cluster: waiting for the disk at every write would only make it slow.
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    ]


def _kube_apiserver(layout: Layout) -> list[str]:
    pki = layout.certificates
    return [
        f"--etcd-servers=https://127.0.0.1:{layout.ports['etcd']}",
        f"--etcd-cafile={pki / 'etcd-authority.crt'}",
        f"--etcd-certfile={pki / 'etcd.crt'}",
        f"--etcd-keyfile={pki / 'etcd.key'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.ports['kube-apiserver']}",
        "--advertise-address=127.0.0.1",
        # Endpoints refuse loopback addresses; nothing in the cluster calls the Service `kubernetes`.
        "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--client-ca-file={pki / 'authority.crt'}",
        f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
        f"--service-account-key-file={pki / 'service-accounts.crt'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        f"--audit-policy-file={AUDIT_POLICY}",
        f"--audit-log-path={layout.audit_log}",
        # One file, never turned over in the middle of a run: readers follow it by position.
        "--audit-log-maxsize=100000",
        "--profiling=false",
    ]


def _kube_controller_manager(layout: Layout) -> list[str]:
    pki = layout.certificates
    return [
        *_client_flags(layout, "kube-controller-manager"),
        f"--service-account-private-key-file={pki / 'service-accounts.key'}",
        f"--root-ca-file={pki / 'authority.crt'}",
        f"--cluster-signing-cert-file={pki / 'authority.crt'}",
        f"--cluster-signing-key-file={pki / 'authority.key'}",
        # Each controller as its own service account, as kubeadm does: the audit log then tells them apart.
        "--use-service-account-credentials",
        "--allocate-node-cidrs=false",
    ]


def _kube_scheduler(layout: Layout) -> list[str]:
    return _client_flags(layout, "kube-scheduler")


def _client_flags(layout: Layout, name: str) -> list[str]:
    kubeconfig = layout.kubeconfig(name)
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.ports[name]}",
        f"--tls-cert-file={layout.certificates / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={layout.certificates / 'kube-apiserver.key'}",
        # There is one of each: an election would only add writes and seconds.
        "--leader-elect=false",
        # The defaults (50 and 20 a second) would hold up several hundred Pods created at once.
        "--kube-api-qps=1000",
        "--kube-api-burst=1000",
        "--profiling=false",
    ]


def _kwok(layout: Layout) -> list[str]:
    files = (STAGES_FOLDER / name for name in ("configuration.yaml", "nodes.yaml", "pods.yaml"))
    return [
        f"--kubeconfig={layout.kubeconfig('kwok')}",
        *(f"--config={file}" for file in files),
        # Said here as well as in the file: kwok refuses to start without a choice of nodes.
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        # Every address of 127/8 is this machine: one process can answer as every simulated replica.
        f"--cidr={layout.pod_cidr}",
        f"--node-ip={NODE_ADDRESS}",
        f"--server-address=127.0.0.1:{layout.ports['kwok']}",
    ]
