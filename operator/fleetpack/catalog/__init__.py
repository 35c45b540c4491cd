"""The catalog: accelerators, instance types, prices and allocation rules, each number with its source.

The data stand in `data/*.yaml` and are read by `load_catalog()`; the values they become are in `types`. The catalog
states facts and rules and judges nothing: which cores a replica gets is `core.packing`'s work, what it costs
`core.cost`'s. It fails (`CatalogError`) only while loading, which means a broken installation, or on an override that
contradicts it.
"""

from fleetpack.catalog.loader import load_catalog
from fleetpack.catalog.types import (
    OVERRIDE,
    Accelerator,
    AllocationPolicy,
    Catalog,
    CatalogError,
    InstanceType,
    NumaNode,
    Source,
    Topology,
    UnknownAccelerator,
    UnknownInstanceType,
    Unverified,
)

__all__ = [
    "OVERRIDE",
    "Accelerator",
    "AllocationPolicy",
    "Catalog",
    "CatalogError",
    "InstanceType",
    "NumaNode",
    "Source",
    "Topology",
    "UnknownAccelerator",
    "UnknownInstanceType",
    "Unverified",
    "load_catalog",
]
