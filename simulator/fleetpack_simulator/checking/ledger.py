"""Money over time: what is being paid for, at what rate, since when.

An account is what a sum is wanted for (a deployment, a pool), an item is one thing in it (a Pod, a node). A rate that nobody knows
is kept as unknown: it adds nothing to a sum, and whoever asks for the sum can ask whether it is complete.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from fractions import Fraction

_SECONDS_PER_HOUR = 3600


@dataclass(slots=True)
class _Item:
    account: Hashable
    usd_per_hour: Fraction | None
    since_seconds: float


@dataclass(slots=True)
class Ledger:
    """Items with their rates; sums are exact in the rate and summed in floating point over time."""

    spent_usd: dict[Hashable, float] = field(default_factory=dict)
    peak_usd_per_hour: dict[Hashable, Fraction] = field(default_factory=dict)
    _items: dict[str, _Item] = field(default_factory=dict)
    _rates: dict[Hashable, Fraction] = field(default_factory=dict)
    """Account to the sum of its known rates, kept up so that asking does not walk all items."""
    _unknown: dict[Hashable, int] = field(default_factory=dict)
    """Account to the number of its items whose rate is not known."""

    def charge(self, item: str, account: Hashable, usd_per_hour: Fraction | None, at_seconds: float) -> None:
        """Say that `item` costs this much from now on."""
        self.release(item, at_seconds)
        entry = _Item(account, usd_per_hour, at_seconds)
        self._items[item] = entry
        self._count(entry, +1)
        self.spent_usd.setdefault(account, 0.0)
        self.peak_usd_per_hour[account] = max(self.peak_usd_per_hour.get(account, Fraction(0)), self.rate(account))

    def release(self, item: str, at_seconds: float) -> None:
        """Say that `item` costs nothing from now on."""
        entry = self._items.pop(item, None)
        if entry is not None:
            self._count(entry, -1)
            self._pay(entry, at_seconds)

    def settle(self, at_seconds: float) -> None:
        """Add what all items cost until now."""
        for entry in self._items.values():
            self._pay(entry, at_seconds)
            entry.since_seconds = max(entry.since_seconds, at_seconds)

    def rate(self, account: Hashable) -> Fraction:
        """Return what the account costs now, as far as prices are known."""
        return self._rates.get(account, Fraction(0))

    def complete(self, account: Hashable) -> bool:
        """Whether every rate in the account is known."""
        return not self._unknown.get(account)

    def _count(self, entry: _Item, sign: int) -> None:
        if entry.usd_per_hour is None:
            self._unknown[entry.account] = self._unknown.get(entry.account, 0) + sign
        else:
            self._rates[entry.account] = self.rate(entry.account) + sign * entry.usd_per_hour

    def _pay(self, entry: _Item, at_seconds: float) -> None:
        hours = max(at_seconds - entry.since_seconds, 0.0) / _SECONDS_PER_HOUR
        self.spent_usd[entry.account] += float(entry.usd_per_hour or 0) * hours
