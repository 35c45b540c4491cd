"""The words for what is so and why: condition types and every reason, each once.

A reason is a constant out of `Reason`, used alike in conditions, events, decisions, metrics and log lines; text
around it may change, the constant is part of the API. Nothing else in the project makes up a reason as a string.
"""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """The condition types of both resources; all read True when things are well."""

    ACCEPTED = "Accepted"
    """The object is understood and can be served as written."""
    READY = "Ready"
    """InferenceDeployment: as many replicas are ready as are wanted. AcceleratorPool: the pool can give nodes."""
    SCALING_ACTIVE = "ScalingActive"
    """Fresh signals drive the number of replicas."""
    CAPACITY_AVAILABLE = "CapacityAvailable"
    """Every wanted replica has a place."""
    WITHIN_BUDGET = "WithinBudget"
    """No ceiling in USD or nodes holds back what is wanted."""


class Reason(StrEnum):
    """Every reason there is, grouped by the question that it answers."""

    # Accepted: can the object be served as written?
    ACCEPTED = "Accepted"
    """Understood, nothing to complain about."""
    INVALID_SPEC = "InvalidSpec"
    """The object passed the API server and yet cannot be read: an older CRD is installed, or a rule was changed."""
    ASSESSMENT_FAILED = "AssessmentFailed"
    """A bug of fleetpack, met by this object's numbers: its replicas stay as they are, the operator's log has the traceback."""
    UNKNOWN_ACCELERATOR = "UnknownAccelerator"
    """A variant names an accelerator that neither the catalog nor a pool has."""
    UNKNOWN_INSTANCE_TYPE = "UnknownInstanceType"
    """A pool names an instance type that neither the catalog nor its own list has."""
    UNSUPPORTED_DEVICE_COUNT = "UnsupportedDeviceCount"
    """No instance type of the accelerator lets one replica span that many devices."""
    UNSUPPORTED_CORE_COUNT = "UnsupportedCoreCount"
    """The number of cores is no legal share of the accelerator's devices."""
    INVALID_TEMPLATE = "InvalidTemplate"
    """The API server refuses the Pod that the template makes."""
    MODEL_DOES_NOT_FIT = "ModelDoesNotFit"
    """Weights and KV cache are larger than the device memory of one replica."""
    INVALID_SIGNAL = "InvalidSignal"
    """A signal cannot be read as configured: a Secret is missing, a query or path is wrong."""
    NO_POOL = "NoPool"
    """No pool that this namespace may use has the accelerator."""
    OVERLAPPING_POOLS = "OverlappingPools"
    """A node is claimed by more than one pool."""
    UNKNOWN_POOL = "UnknownPool"
    """A node's label names a pool that does not exist."""
    NAME_TAKEN = "NameTaken"
    """A Service or PodDisruptionBudget of the needed name is somebody else's and is left alone; replicas run all the same."""

    # Ready
    ALL_REPLICAS_READY = "AllReplicasReady"
    """As many replicas are ready as are wanted."""
    REPLICAS_STARTING = "ReplicasStarting"
    """Replicas have their place and are loading."""
    REPLICAS_UNPLACED = "ReplicasUnplaced"
    """Replicas have no place yet."""
    REPLICA_FAILED = "ReplicaFailed"
    """A replica's Pod failed or was evicted; it is replaced with back-off."""
    SCALED_TO_ZERO = "ScaledToZero"
    """No replica is wanted, and none is there."""
    POOL_READY = "PoolReady"
    """The pool's nodes are there and its provider answers."""
    NODES_NOT_READY = "NodesNotReady"
    """Nodes of the pool are booting or not ready."""
    PROVIDER_FAILED = "ProviderFailed"
    """The pool's provider refused or failed to launch or remove a node."""

    # ScalingActive: do signals drive the number of replicas?
    SIGNALS_FRESH = "SignalsFresh"
    """At least one signal is fresh and complete enough to decide on."""
    NO_FRESH_SIGNAL = "NoFreshSignal"
    """Every signal is missing or older than its staleAfter; replicas are held."""
    NO_SIGNAL = "NoSignal"
    """No signal is configured: nothing says how much work there is, so replicas are held."""
    NO_READY_REPLICA = "NoReadyReplica"
    """The signals are read from replicas, and none is ready yet; a replica that loads is not an idle one."""
    SIGNAL_FAILED = "SignalFailed"
    """A source cannot be read: connection, status code, or a body without the number."""
    CACHE_STALE = "CacheStale"
    """What is known of the cluster is too old to act on; everything is held."""
    MANUAL_REPLICAS = "ManualReplicas"
    """Mode Manual: spec.replicas is obeyed."""
    ADVISORY = "Advisory"
    """Mode Advisory: spec.replicas is obeyed, the decision of Auto is only shown."""
    PAUSED = "Paused"
    """Mode Paused: nothing is touched."""

    # Decisions about the number of replicas: up
    QUEUE_ABOVE_TARGET = "QueueAboveTarget"
    """More requests wait per replica than targetQueueDepth allows."""
    BACKLOG_DRAINING = "BacklogDraining"
    """Replicas are sized so that the backlog drains in time."""
    DEMAND_ABOVE_CAPACITY = "DemandAboveCapacity"
    """More requests arrive or run than the replicas serve at their measured capacity."""
    LATENCY_ABOVE_TARGET = "LatencyAboveTarget"
    """The latency target is missed, or would be."""
    FORECAST_ABOVE_CAPACITY = "ForecastAboveCapacity"
    """Demand at the end of a cold start is expected to be above what the replicas serve."""
    WAKING_FROM_ZERO = "WakingFromZero"
    """Requests wait outside and no replica is there."""
    BELOW_MINIMUM = "BelowMinimum"
    """Fewer replicas than minReplicas."""

    # Decisions about the number of replicas: down
    DEMAND_BELOW_CAPACITY = "DemandBelowCapacity"
    """Fewer replicas serve the demand, and have done so long enough."""
    IDLE = "Idle"
    """No request for scaleToZeroAfter: down to zero."""
    ABOVE_MAXIMUM = "AboveMaximum"
    """More replicas than maxReplicas."""

    # Decisions about the number of replicas: as it is
    ON_TARGET = "OnTarget"
    """The number of replicas is right."""
    HOLDING_STABLE = "HoldingStable"
    """Fewer would do; they are kept until the lower demand has lasted long enough."""
    HOLDING_WINDOW_FILLING = "HoldingWindowFilling"
    """The process is too young to have measured enough; up is allowed, down is held."""
    MISSES_WITHIN_TARGET = "MissesWithinTarget"
    """More would miss the latency target less; what misses it is within the share that the target permits."""
    HOLDING_STARTING = "HoldingStarting"
    """Replicas on their way already cover the demand."""
    AT_MAXIMUM_REPLICAS = "AtMaximumReplicas"
    """More are needed than maxReplicas allows."""
    AT_MINIMUM_REPLICAS = "AtMinimumReplicas"
    """Fewer would do; minReplicas keeps them."""

    # WithinBudget
    WITHIN_BUDGET = "WithinBudget"
    """No ceiling holds anything back."""
    COST_CEILING = "CostCeiling"
    """cost.maxUSDPerHour of the deployment holds replicas back."""
    COST_TARGET = "CostTarget"
    """cost.targetUSDPerMillionRequests does not pay for what latency or spare capacity would add."""
    POOL_LIMIT = "PoolLimit"
    """The pool's limit in nodes or USD per hour is reached."""
    PRICE_UNKNOWN = "PriceUnknown"
    """A ceiling is set and no price is known for the only places there are."""

    # CapacityAvailable, and decisions about places
    PLACED = "Placed"
    """Every wanted replica has its cores."""
    NO_FEASIBLE_PLACEMENT = "NoFeasiblePlacement"
    """No node has a free legal range with the CPU and memory that the Pod asks for."""
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    """The provider has no machine of the wanted type at the moment."""
    YIELDED_TO_PRIORITY = "YieldedToPriority"
    """The fleet is full and a model of higher priority has no place: this one gives up what it has above its minReplicas."""
    WAITING_FOR_NODE = "WaitingForNode"
    """A node is being launched."""
    NOT_BOUND = "NotBound"
    """kube-scheduler did not bind the Pod to its node in time; the place is set aside with back-off."""
    REPLACING_FAILED = "ReplacingFailed"
    """A failed or evicted replica is replaced."""
    TEMPLATE_CHANGED = "TemplateChanged"
    """A replica runs an older template and is replaced within disruption."""
    VARIANT_REMOVED = "VariantRemoved"
    """A replica's variant is no longer in the spec."""
    ALLOCATION_DIFFERS = "AllocationDiffers"
    """The kubelet gave other cores than planned; what it gave is the truth."""
    DISRUPTION_LIMIT = "DisruptionLimit"
    """disruption.maxUnavailable or a window holds a voluntary change back."""
    DELETING = "Deleting"
    """The object is being deleted; its replicas drain and go."""

    # Decisions about single replicas
    SURPLUS = "Surplus"
    """More replicas than wanted: this one serves least or frees most."""
    DRAINED = "Drained"
    """Taken out of the Service, and nothing is running in it any more."""
    DRAIN_TIME_OVER = "DrainTimeOver"
    """disruption.drain has passed with requests still running."""
    DRAINING_REPLICA_RESTORED = "DrainingReplicaRestored"
    """Needed again before it was gone: cheaper than a cold start."""
    NO_ROOM_TO_SURGE = "NoRoomToSurge"
    """There is no room for old and new at once: the old goes first, within disruption.maxUnavailable."""
    BACKING_OFF = "BackingOff"
    """Pods of this deployment failed or were refused; the next is tried after a growing wait."""

    # Decisions about nodes
    NODE_NEEDED = "NodeNeeded"
    """A replica has no place on the nodes there are: a node is launched."""
    HEADROOM = "Headroom"
    """The pool keeps this many cores free."""
    NODE_EMPTY = "NodeEmpty"
    """A node has been empty for consolidateAfter: it is given back."""
    CONSOLIDATION = "Consolidation"
    """The same replicas fit on cheaper or fewer nodes."""
    NODE_UNHEALTHY = "NodeUnhealthy"
    """A node or a device of it is unhealthy: nothing new is placed there, and replicas on it are replaced."""
    NODE_LEAVING = "NodeLeaving"
    """A node is cordoned, taken back or gone: replicas on it are replaced before they are given up."""

    # Events of the device plugin
    CORES_SWAPPED = "CoresSwapped"
    """The kubelet gave a Pod the cores that were planned for another Pod of the same size; they are its own now."""
    CORES_MOVED = "CoresMoved"
    """The kubelet gave a Pod cores that were planned for nobody; they are its own now."""


QUIET_REASONS = frozenset(
    {
        Reason.ON_TARGET,
        Reason.HOLDING_STABLE,
        Reason.HOLDING_WINDOW_FILLING,
        Reason.MISSES_WITHIN_TARGET,
        Reason.HOLDING_STARTING,
        Reason.AT_MINIMUM_REPLICAS,
        Reason.MANUAL_REPLICAS,
    }
)
"""Reasons for leaving things as they are that are no news: noise turns one into the other, and nobody has to do anything."""
