"""The buyer's question: one model and one load on every accelerator and variant, and the smallest fleet that keeps the objective.

For each number of devices per replica, and for some largest batches, the smallest fleet is sought (`fleets`) and put on the cheapest
machines (`candidates`); the batch that needs the least money counts. USD are for whole machines that run all the time, idle devices
included. A variant that cannot be had, cannot hold the model or cannot keep the objective says why. What rests on no published serving
numbers is projected; so is every number of an accelerator of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

from fleetpack.catalog import Accelerator, Catalog, InstanceType
from fleetpack_simulator.engine import EngineProfile, Hardware, ModelShape, ProfileError, coefficients_for
from fleetpack_simulator.report.candidates import UNCATALOGUED_COUNTS, Machines, cheapest_machines, device_counts
from fleetpack_simulator.report.fleets import Fleet, Misfit, Objective, smallest_fleet
from fleetpack_simulator.settings import SettingsError, hardware_of
from fleetpack_simulator.workload import Request

BATCHES = (8, 32)
"""Largest batches that are tried where shapes are compiled: every step costs the whole batch, so more is not always better."""
DYNAMIC_BATCH = 128
"""Where a step costs what is in it, a large one does no harm; vLLM's default for online serving on large GPUs is 256."""
MEMORY = "memory"
_SMALLEST_WINDOW = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of every variant."""

    model: ModelShape
    load: tuple[Request, ...]
    objective: Objective
    window_tokens: int
    batches: tuple[int, ...] | None = None
    """None: `BATCHES`, or `DYNAMIC_BATCH`."""

    @property
    def hours(self) -> float:
        """How long the load lasts."""
        return (self.load[-1].arrival_seconds + 1.0) / 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One variant: an accelerator and how many of its devices serve one replica."""

    accelerator: str
    hardware: Hardware | None
    devices: int
    machines: tuple[InstanceType, ...]
    projected: bool
    secondary: bool = False
    """Whether a data sheet figure comes from a secondary source only."""
    refusal: str = ""
    """Why it is not even tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one variant."""

    accelerator: str
    devices: int
    projected: bool
    secondary: bool
    batch: int | None
    fleet: Fleet | None
    machines: Machines | None
    limit: str
    """What limits it, or why it cannot be."""
    usd_per_million_tokens: float | None
    """Per million output tokens."""
    usd_per_million_requests: float | None

    @property
    def order(self) -> tuple[bool, float, bool, int, str]:
        """Cheapest first, then those without a price, then those that cannot."""
        usd = self.machines.usd_per_hour if self.machines is not None else 0.0
        return (self.machines is None, usd, self.fleet is None, self.devices, self.accelerator)


def window_for(load: Iterable[Request], most_tokens: int) -> int:
    """Return the smallest window, a power of two, that holds every request, as far as the model's own window permits."""
    longest = max(one.prompt_tokens + one.output_tokens for one in load)
    window = _SMALLEST_WINDOW
    while window < longest:
        window *= 2
    return min(window, most_tokens)


def window_note(question: Question) -> str:
    """Return what a reader should know about the window: where shapes are compiled, a few long requests make all slow and large."""
    half = question.window_tokens // 2
    longer = sum(one.prompt_tokens + one.output_tokens > half for one in question.load)
    return (
        f"Window of {question.window_tokens:,} tokens, which {longer:,} of {len(question.load):,} requests need (others: {half:,}). "
        "Where shapes are compiled every slot reserves all of it, and --window-tokens asks what a smaller one would do."
    )


def candidates_of(catalog: Catalog, own: Iterable[str] = (), only: Iterable[str] = ()) -> list[Candidate]:
    """Return the variants of all accelerators by name; `own` are the user's, `only` are those asked for (none: all)."""
    found: list[Candidate] = []
    wanted, users = set(only), set(own)
    for name, accelerator in sorted(catalog.accelerators.items()):
        if wanted and name not in wanted:
            continue
        machines = tuple(
            one for _, one in sorted(catalog.instance_types.items()) if one.accelerator == name and one.servers == 1
        )
        found.extend(_variants(accelerator, machines, catalog, name in users))
    return found


def _variants(
    accelerator: Accelerator, machines: tuple[InstanceType, ...], catalog: Catalog, is_own: bool
) -> list[Candidate]:
    refused = Candidate(accelerator=accelerator.name, hardware=None, devices=1, machines=machines, projected=True)
    try:
        hardware = hardware_of(accelerator.name, catalog)
    except SettingsError as error:
        return [replace(refused, refusal=str(error))]
    listed = [one for one in catalog.instance_types.values() if one.accelerator == accelerator.name]
    counts = device_counts(machines) if machines else () if listed else UNCATALOGUED_COUNTS
    if not counts:
        return [replace(refused, refusal="allocation: no rule is published for which devices may serve one replica")]
    facts = (accelerator.memory_gib, accelerator.memory_bandwidth_gb_per_second, accelerator.tflops_bf16)
    return [
        Candidate(
            accelerator=accelerator.name,
            hardware=hardware,
            devices=count,
            machines=machines,
            projected=is_own or coefficients_for(hardware).projected,
            secondary=None in facts,
        )
        for count in counts
    ]


def answer(candidate: Candidate, question: Question) -> Answer:
    """Return the best of the batches that are tried for a variant."""
    hardware = candidate.hardware
    if hardware is None:
        return _unanswered(candidate, candidate.refusal)
    batches = question.batches or (BATCHES if hardware.static_shapes else (DYNAMIC_BATCH,))
    answers = [_at_batch(candidate, question, hardware, batch) for batch in batches]
    if question.batches is None and all(one.limit.startswith(MEMORY) for one in answers):
        answers.append(_at_batch(candidate, question, hardware, 1))
    return min(answers, key=lambda one: (one.fleet is None, one.order, one.fleet.replicas if one.fleet else 0))


def _at_batch(candidate: Candidate, question: Question, hardware: Hardware, batch: int) -> Answer:
    try:
        profile = EngineProfile(
            model=question.model,
            hardware=hardware,
            cores=candidate.devices * hardware.cores_per_device,
            maximum_batch=batch,
            window_tokens=question.window_tokens,
            coefficients=coefficients_for(hardware),
        )
    except ProfileError:
        return _unanswered(candidate, _memory(candidate, question, hardware, batch))
    found = smallest_fleet(profile, question.load, question.objective)
    if isinstance(found, Misfit):
        return _unanswered(candidate, f"{found.limit}: {found.reason}")
    machines = cheapest_machines(candidate.machines, candidate.devices, found.replicas)
    usd = None if machines is None else machines.usd_per_hour * question.hours
    tokens = sum(one.output_tokens for one in question.load)
    return Answer(
        accelerator=candidate.accelerator,
        devices=candidate.devices,
        projected=candidate.projected,
        secondary=candidate.secondary,
        batch=batch,
        fleet=found,
        machines=machines,
        limit=found.limit,
        usd_per_million_tokens=None if usd is None else usd / tokens * 1e6,
        usd_per_million_requests=None if usd is None else usd / len(question.load) * 1e6,
    )


def _memory(candidate: Candidate, question: Question, hardware: Hardware, batch: int) -> str:
    cores = candidate.devices * hardware.cores_per_device
    usable = candidate.devices * hardware.memory_gib * 2**30 * 0.9 / 1e9
    sequences = batch if hardware.static_shapes else 1
    cache = sequences * question.window_tokens * question.model.kv_bytes_per_token(cores) / 1e9
    weights = question.model.weight_bytes / 1e9
    return (
        f"{MEMORY}: {weights:.1f} GB of weights and a KV cache of {cache:.1f} GB ({sequences} x {question.window_tokens} tokens) "
        f"do not fit {usable:.1f} GB"
    )


def _unanswered(candidate: Candidate, limit: str) -> Answer:
    return Answer(
        accelerator=candidate.accelerator,
        devices=candidate.devices,
        projected=candidate.projected,
        secondary=candidate.secondary,
        batch=None,
        fleet=None,
        machines=None,
        limit=limit,
        usd_per_million_tokens=None,
        usd_per_million_requests=None,
    )


_question: Question | None = None
"""In a worker: the question, sent once."""


def _begin_worker(question: Question) -> None:
    global _question
    _question = question


def _work(candidate: Candidate) -> Answer:
    assert _question is not None
    return answer(candidate, _question)


def answers_of(
    candidates: list[Candidate], question: Question, *, jobs: int, tell: Callable[[int], None] | None = None
) -> list[Answer]:
    """Return the answers of all variants, cheapest first, in so many processes; `tell` hears how many are there."""
    found: list[Answer] = []
    if jobs <= 1 or len(candidates) < 2:
        for candidate in candidates:
            found.append(answer(candidate, question))
            if tell is not None:
                tell(len(found))
        return sorted(found, key=lambda one: one.order)
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_begin_worker, initargs=(question,)
    ) as pool:
        for future in as_completed([pool.submit(_work, candidate) for candidate in candidates]):
            found.append(future.result())
            if tell is not None:
                tell(len(found))
    return sorted(found, key=lambda one: one.order)


def best_of(answers: Iterable[Answer]) -> list[Answer]:
    """Return the first of each accelerator that can, in order; of those that cannot at all, the one with the most devices."""
    found: dict[str, Answer] = {}
    for one in answers:
        known = found.get(one.accelerator)
        if known is None or (known.fleet is None and (one.fleet is not None or one.devices > known.devices)):
            found[one.accelerator] = one
    return sorted(found.values(), key=lambda one: one.order)


def payload_of_answers(answers: list[Answer], question: Question, trace: str) -> dict[str, Any]:
    """Return everything as plain values: what `--json` writes, and what the page is drawn from."""
    return {
        "kind": "accelerators",
        "model": question.model.name,
        "weightBits": question.model.weight_bits,
        "estimated": question.model.estimated,
        "trace": trace,
        "requests": len(question.load),
        "outputTokens": sum(one.output_tokens for one in question.load),
        "hours": question.hours,
        "windowTokens": question.window_tokens,
        "windowNote": window_note(question),
        "objective": {
            "percentile": question.objective.percentile,
            "ttftSeconds": question.objective.ttft_seconds,
            "tpotSeconds": question.objective.tpot_seconds,
            "latencySeconds": question.objective.latency_seconds,
        },
        "answers": [_answer_json(one) for one in answers],
    }


def _answer_json(one: Answer) -> dict[str, Any]:
    fleet = None if one.fleet is None else asdict(one.fleet)
    return {
        "accelerator": one.accelerator,
        "devicesPerReplica": one.devices,
        "projected": one.projected,
        "secondarySource": one.secondary,
        "maximumBatch": one.batch,
        "replicas": None if fleet is None else fleet["replicas"],
        "inObjective": None if fleet is None else fleet["in_objective"],
        "ttftSeconds": None if fleet is None else list(fleet["ttft_seconds"]),
        "latencySeconds": None if fleet is None else list(fleet["latency_seconds"]),
        "prefillShare": None if fleet is None else fleet["prefill_share"],
        "decodeShare": None if fleet is None else fleet["decode_share"],
        "machines": None if one.machines is None else [list(count) for count in one.machines.counts],
        "idleDevices": None if one.machines is None else one.machines.idle_devices,
        "usdPerHour": None if one.machines is None else one.machines.usd_per_hour,
        "usdPerMillionOutputTokens": one.usd_per_million_tokens,
        "usdPerMillionRequests": one.usd_per_million_requests,
        "limit": one.limit,
    }
