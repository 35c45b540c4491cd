"""Seeded loads: a rate over time, arrivals drawn from it, and lengths. The same options give the same requests, everywhere.

Arrivals are a renewal process in operational time: gaps are drawn with mean 1 and mapped through the integral of the rate, which
is Poisson for exponential gaps and more or less bursty for gamma gaps (Cox & Lewis, "The Statistical Analysis of Series of
Events", 1966). The rate is taken as constant within each second. Lengths are constant, save for `production-chat`. Options
outside their range are refused with `ValueError`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fleetpack_simulator.workload.requests import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """What generators can be told; each uses what its shape has."""

    duration_seconds: float = 600.0
    rate_per_second: float = 5.0
    """The rate at rest: the constant, the start of a step or ramp, the base of a spike, the low of a sine or a day."""
    peak_rate_per_second: float = 15.0
    """The rate after a step, at the end of a ramp, on top of a spike, a sine or a day."""
    at_seconds: float = 120.0
    """When a step, ramp, spike or flash crowd begins."""
    width_seconds: float = 60.0
    """How long a ramp climbs or a spike lasts; the half-life of a flash crowd."""
    period_seconds: float = 600.0
    """One turn of a sine, or the length of the day."""
    prompt_tokens: int = 1000
    output_tokens: int = 150
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("duration_seconds", "width_seconds", "period_seconds", "prompt_tokens", "output_tokens"):
            if getattr(self, field) <= 0:
                raise ValueError(f"generator: {field} is {getattr(self, field)}, it must be above zero")
        for field in ("rate_per_second", "peak_rate_per_second", "at_seconds"):
            if getattr(self, field) < 0:
                raise ValueError(f"generator: {field} is {getattr(self, field)}, it must not be negative")


Rate = Callable[[GeneratorOptions, float], float]
"""Requests per second at an instant."""


def generate(name: str, options: GeneratorOptions) -> tuple[Request, ...]:
    """Return the load that the generator `name` draws; names are the keys of `GENERATORS`."""
    rate = GENERATORS.get(name)
    if rate is None:
        raise ValueError(f"generator {name!r} is not known; known are {', '.join(GENERATORS)}")
    draw = random.Random(options.seed)
    is_chat = name == PRODUCTION_CHAT
    gap_shape = _CHAT_GAP_SHAPE if is_chat else 1.0
    requests = []
    for arrival_seconds in _arrivals(options, rate, draw, gap_shape):
        prompt_tokens = _chat_prompt_tokens(draw) if is_chat else options.prompt_tokens
        output_tokens = _chat_output_tokens(draw) if is_chat else options.output_tokens
        requests.append(
            Request(arrival_seconds=arrival_seconds, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        )
    return tuple(requests)


def _arrivals(options: GeneratorOptions, rate: Rate, draw: random.Random, gap_shape: float) -> Iterator[float]:
    """Yield arrival times; a gap has mean 1 and a coefficient of variation of 1/√`gap_shape`."""
    second = 0
    needed = draw.gammavariate(gap_shape, 1 / gap_shape)
    while second < options.duration_seconds:
        length = min(1.0, options.duration_seconds - second)
        rate_per_second = max(0.0, rate(options, second + length / 2))
        offset = 0.0
        while rate_per_second > 0 and offset + needed / rate_per_second < length:
            offset += needed / rate_per_second
            yield round(second + offset, 6)
            needed = draw.gammavariate(gap_shape, 1 / gap_shape)
        needed -= (length - offset) * rate_per_second
        second += 1


def _constant(options: GeneratorOptions, _: float) -> float:
    return options.rate_per_second


def _step(options: GeneratorOptions, now: float) -> float:
    return options.peak_rate_per_second if now >= options.at_seconds else options.rate_per_second


def _ramp(options: GeneratorOptions, now: float) -> float:
    share = min(1.0, max(0.0, (now - options.at_seconds) / options.width_seconds))
    return options.rate_per_second + share * (options.peak_rate_per_second - options.rate_per_second)


def _sine(options: GeneratorOptions, now: float) -> float:
    """Starts at the low; the shape of NVIDIA Dynamo's published planner benchmark (sine from rate to peak)."""
    middle = (options.rate_per_second + options.peak_rate_per_second) / 2
    swing = (options.peak_rate_per_second - options.rate_per_second) / 2
    return middle + swing * math.sin(2 * math.pi * now / options.period_seconds - math.pi / 2)


def _diurnal(options: GeneratorOptions, now: float) -> float:
    """A day that begins at midnight: low at 4 h, a broad top from late morning, a second, smaller one in the evening."""
    hour = 24 * (now % options.period_seconds) / options.period_seconds
    day = math.exp(-(((hour - 12.5) / 4.0) ** 2)) + 0.7 * math.exp(-(((hour - 20.5) / 2.2) ** 2))
    return options.rate_per_second + min(1.0, day) * (options.peak_rate_per_second - options.rate_per_second)


def _spike(options: GeneratorOptions, now: float) -> float:
    is_on = options.at_seconds <= now < options.at_seconds + options.width_seconds
    return options.peak_rate_per_second if is_on else options.rate_per_second


def _production_chat(options: GeneratorOptions, now: float) -> float:
    """A mean of `rate_per_second` that wanders slowly: two waves of periods that do not divide each other."""
    phase = random.Random(options.seed + 1).random() * 2 * math.pi
    wander = 0.22 * math.sin(2 * math.pi * now / 1100 + phase) + 0.12 * math.sin(2 * math.pi * now / 310 + 2 * phase)
    return options.rate_per_second * (1 + wander)


def _flash_crowd(options: GeneratorOptions, now: float) -> float:
    """Everyone comes within a few seconds, and the crowd loses interest exponentially; `width_seconds` is its half-life.

    Sharp rises far beyond the usual rate are what the server logs of popular sites show (Jung, Krishnamurthy and Rabinovich, "Flash
    Crowds and Denial of Service Attacks", WWW 2002); that the crowd halves in equal times is a simple assumption.
    """
    since = now - options.at_seconds
    if since < 0:
        return options.rate_per_second
    risen = min(1.0, since / _FLASH_RISE_SECONDS)
    left = math.exp2(-max(0.0, since - _FLASH_RISE_SECONDS) / options.width_seconds)
    return options.rate_per_second + risen * left * (options.peak_rate_per_second - options.rate_per_second)


_FLASH_RISE_SECONDS = 5.0
"""From rest to the top: far below any cold start, which is what makes a flash crowd hard."""

PRODUCTION_CHAT = "production-chat"
# The statistics aimed at are those of a published production chat trace: AzureLLMInferenceTrace_conv 2023-11-16, first half hour
# (Azure/AzurePublicDataset; Patel et al., Splitwise, ISCA'24): gaps with a coefficient of variation of 1.09, prompts of mean 1155,
# median 1020 and 99th percentile 4142 tokens, outputs of 211, 129 and 601.
_CHAT_GAP_SHAPE = 0.9


def _chat_prompt_tokens(draw: random.Random) -> int:
    """First turns, conversations that carry their history, and some that fill a window of about 4,100 tokens."""
    which = draw.random()
    if which < 0.34:
        tokens = draw.lognormvariate(math.log(330), 0.50)
    elif which < 0.90:
        tokens = draw.lognormvariate(math.log(1120), 0.16)
    else:
        tokens = draw.lognormvariate(math.log(4080), 0.008)
    return min(8000, max(4, round(tokens)))


def _chat_output_tokens(draw: random.Random) -> int:
    """Short answers, and essays that stop at about 400 to 600 tokens."""
    short = draw.random() < 0.66
    tokens = draw.lognormvariate(math.log(90), 0.60) if short else draw.lognormvariate(math.log(400), 0.22)
    return min(1000, max(2, round(tokens)))


GENERATORS: Mapping[str, Rate] = MappingProxyType(
    {
        "constant": _constant,
        "step": _step,
        "ramp": _ramp,
        "sine": _sine,
        "diurnal": _diurnal,
        "spike": _spike,
        "flash-crowd": _flash_crowd,
        PRODUCTION_CHAT: _production_chat,
    }
)
"""Every generator by name: its rate over time."""

_OF_ALL = frozenset({"duration_seconds", "rate_per_second", "seed"})
_TOKENS = frozenset({"prompt_tokens", "output_tokens"})
_BURST = frozenset({"peak_rate_per_second", "at_seconds", "width_seconds"})
_WAVE = frozenset({"peak_rate_per_second", "period_seconds"})
GENERATOR_OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "constant": _OF_ALL | _TOKENS,
        "step": _OF_ALL | _TOKENS | _BURST - {"width_seconds"},
        "ramp": _OF_ALL | _TOKENS | _BURST,
        "sine": _OF_ALL | _TOKENS | _WAVE,
        "diurnal": _OF_ALL | _TOKENS | _WAVE,
        "spike": _OF_ALL | _TOKENS | _BURST,
        "flash-crowd": _OF_ALL | _TOKENS | _BURST,
        PRODUCTION_CHAT: _OF_ALL,
    }
)
"""What changes the load that each generator draws, by field of `GeneratorOptions`; it passes over the rest."""
