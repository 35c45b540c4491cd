"""From cached rows to the values that a plan is made from. No input or output: rows in, values out.

The interpretation of a resource is kept for as long as nothing that it depends on changes, because most passes come from Pods
and most resources stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from fleetpack.api.accelerator_pool import AcceleratorPool
from fleetpack.api.conditions import Reason
from fleetpack.api.inference_deployment import InferenceDeployment
from fleetpack.catalog import Catalog, InstanceType
from fleetpack.cluster import names
from fleetpack.cluster.projections import NamespaceRow, NodeRow, PriorityRow
from fleetpack.core.deployments import Deployment
from fleetpack.core.fleet import FleetSnapshot, ForeignPod, Node, Problem, Replica
from fleetpack.core.interpretation import InterpretedPool, interpret_deployment, interpret_pool

_logger = logging.getLogger(__name__)

NOT_READY_TAINT = "node.kubernetes.io/not-ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Everything that the caches hold at one moment."""

    nodes: tuple[NodeRow, ...]
    pods: tuple[Replica | ForeignPod, ...]
    deployments: tuple[InferenceDeployment, ...]
    pools: tuple[AcceleratorPool, ...]
    namespaces: tuple[NamespaceRow, ...] = ()
    priority_classes: tuple[PriorityRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """The rows as the core wants them."""

    snapshot: FleetSnapshot
    deployments: tuple[Deployment, ...]
    pools: tuple[InterpretedPool, ...]
    strays: tuple[tuple[str, Problem], ...] = ()
    """Nodes that cannot be used, and why: an unknown pool or instance type."""


@dataclass(slots=True)
class Interpreter:
    """Turns rows into values; remembers interpretations whose inputs are the same objects as last time."""

    catalog: Catalog
    _pools: tuple[object, ...] = ()
    _interpreted_pools: tuple[InterpretedPool, ...] = ()
    _types: tuple[InstanceType, ...] = ()
    _deployments: dict[str, tuple[object, int, object, Deployment]] = field(default_factory=dict)

    def understand(self, rows: Rows) -> Understood:
        """Return the values of this moment."""
        self._understand_pools(rows)
        priorities = {row.name: row.value for row in rows.priority_classes}
        default = next((row.value for row in rows.priority_classes if row.is_default), 0)
        deployments = []
        for resource in rows.deployments:
            name = (resource.spec.template.get("spec") or {}).get("priorityClassName", "")
            deployments.append(self._understand_deployment(resource, priorities.get(name, default)))
        self._deployments = {entry.key: self._deployments[entry.key] for entry in deployments}
        nodes, strays = self._understand_nodes(rows.nodes)
        usable = {node.name for node in nodes}
        return Understood(
            snapshot=FleetSnapshot(
                nodes=tuple(sorted(nodes, key=lambda node: node.name)),
                replicas=tuple(
                    sorted(
                        (pod for pod in rows.pods if isinstance(pod, Replica)),
                        key=lambda pod: (pod.deployment, pod.name),
                    )
                ),
                foreign_pods=tuple(
                    sorted(
                        (pod for pod in rows.pods if isinstance(pod, ForeignPod) and pod.node in usable),
                        key=lambda pod: pod.name,
                    )
                ),
                pools=tuple(entry.pool for entry in self._interpreted_pools),
                unusable_nodes=tuple(name for name, _ in strays),
            ),
            deployments=tuple(sorted(deployments, key=lambda entry: entry.key)),
            pools=self._interpreted_pools,
            strays=tuple(strays),
        )

    def _understand_pools(self, rows: Rows) -> None:
        inputs = (rows.pools, rows.namespaces)
        if self._pools and all(before is now or before == now for before, now in zip(self._pools, inputs, strict=True)):
            return
        labels = {row.name: dict(row.labels) for row in rows.namespaces}
        pools = sorted(rows.pools, key=lambda pool: pool.metadata.name)
        self._interpreted_pools = tuple(interpret_pool(pool, self.catalog, labels) for pool in pools)
        self._pools = inputs
        self._types = _all_types(self.catalog, self._interpreted_pools)

    def _understand_deployment(self, resource: InferenceDeployment, priority: int) -> Deployment:
        known = self._deployments.get(resource.key)
        if known is not None and known[0] is resource and known[1] == priority and known[2] is self._types:
            return known[3]
        try:
            deployment = interpret_deployment(resource, self._types, self.catalog, priority)
        except Exception as error:  # whatever is wrong with one spec must not stop the others
            _logger.exception("%s cannot be interpreted", resource.key)
            problem = Problem(reason=Reason.INVALID_SPEC, message=f"the spec cannot be interpreted: {error}")
            deployment = Deployment(
                namespace=resource.metadata.namespace,
                name=resource.metadata.name,
                uid=resource.metadata.uid,
                variants=(),
                problems=(problem,),
            )
        self._deployments[resource.key] = (resource, priority, self._types, deployment)
        return deployment

    def _understand_nodes(self, rows: Iterable[NodeRow]) -> tuple[list[Node], list[tuple[str, Problem]]]:
        pools = {entry.pool.name: entry for entry in self._interpreted_pools}
        nodes: list[Node] = []
        strays: list[tuple[str, Problem]] = []
        for row in sorted(rows, key=lambda row: row.name):
            node = _node(row, pools)
            if isinstance(node, Problem):
                strays.append((row.name, node))
            else:
                nodes.append(node)
        return nodes, strays


def _all_types(catalog: Catalog, pools: tuple[InterpretedPool, ...]) -> tuple[InstanceType, ...]:
    types = dict(catalog.instance_types)
    for pool in pools:
        types.update({name: offering.instance_type for name, offering in pool.instance_types.items()})
    return tuple(types[name] for name in sorted(types))


def _node(row: NodeRow, pools: dict[str, InterpretedPool]) -> Node | Problem:
    pool = pools.get(row.label(names.POOL_LABEL))
    if pool is None:
        message = f"node {row.name}: label {names.POOL_LABEL}={row.label(names.POOL_LABEL)!r} names no AcceleratorPool"
        return Problem(reason=Reason.UNKNOWN_POOL, message=message)
    offering = pool.instance_types.get(row.label(names.INSTANCE_TYPE_LABEL))
    if offering is None:
        message = (
            f"node {row.name}: instance type {row.label(names.INSTANCE_TYPE_LABEL)!r} is in neither the catalog nor "
            f"spec.customInstanceTypes of pool {pool.pool.name}"
        )
        return Problem(reason=Reason.UNKNOWN_INSTANCE_TYPE, message=message)
    # A node that has just become Ready keeps Kubernetes' own taint for a moment: that is still the boot, not somebody's wish.
    starting = any(taint.key == NOT_READY_TAINT for taint in row.taints)
    booting = row.schedulable and (not row.ever_ready or (row.ready and starting))
    return Node(
        name=row.name,
        pool=pool.pool.name,
        instance_type=offering.instance_type,
        ready=row.ready and row.schedulable and not booting,
        booting=booting,
        created_at=row.created_at,
        price_usd_per_hour=offering.price_usd_per_hour,
        allocatable=row.allocatable,
        unhealthy_devices=_unhealthy_devices(row, offering.instance_type),
        unhealthy_cores=row.unhealthy_cores,
        cordoned=row.cordoned,
        deleting=row.deleting,
        unready_since=None if booting else row.unready_since,
        labels=row.labels,
        taints=tuple(taint for taint in row.taints if not (booting and taint.key == NOT_READY_TAINT)),
    )


def _unhealthy_devices(row: NodeRow, instance_type: InstanceType) -> tuple[int, ...]:
    """Return the devices that are out by the node's condition; where it names none that the machine has, all are."""
    if row.unhealthy_devices is None:
        return ()
    every = range(instance_type.devices)
    return tuple(device for device in row.unhealthy_devices if device in every) or tuple(every)
