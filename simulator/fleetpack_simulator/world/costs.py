"""What is paid: items with a rate in USD per hour that belong to accounts, added up over virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

_SECONDS_PER_HOUR = 3600.0


@dataclass(slots=True)
class CostMeter:
    """Accounts, each a sum over its items; an item that nobody charges costs nothing."""

    _items: dict[str, tuple[str, float, float]] = field(default_factory=dict)
    """Item to account, USD per hour and since when."""
    _spent_usd: dict[str, float] = field(default_factory=dict)
    _item_seconds: dict[str, float] = field(default_factory=dict)

    def charge(self, item: str, account: str, usd_per_hour: float, now_seconds: float) -> None:
        """Let an item cost this much from now on."""
        self.release(item, now_seconds)
        self._items[item] = (account, usd_per_hour, now_seconds)

    def release(self, item: str, now_seconds: float) -> None:
        """Let an item cost nothing from now on."""
        entry = self._items.pop(item, None)
        if entry is not None:
            account, usd_per_hour, since = entry
            seconds = now_seconds - since
            self._spent_usd[account] = self._spent_usd.get(account, 0.0) + usd_per_hour * seconds / _SECONDS_PER_HOUR
            self._item_seconds[account] = self._item_seconds.get(account, 0.0) + seconds

    def settle(self, now_seconds: float) -> None:
        """Add what all items cost until now."""
        for item, (account, usd_per_hour, _) in sorted(self._items.items()):
            self.charge(item, account, usd_per_hour, now_seconds)

    def usd_per_hour(self, account: str) -> float:
        """Return what an account costs at this moment."""
        return sum((rate for _, (owner, rate, _) in sorted(self._items.items()) if owner == account), 0.0)

    def spent_usd(self, account: str) -> float:
        """Return what an account has cost, as of the last release or settlement of each item."""
        return self._spent_usd.get(account, 0.0)

    def item_hours(self, account: str) -> float:
        """Return how long its items have been paid for, added up: replica-hours, node-hours."""
        return self._item_seconds.get(account, 0.0) / _SECONDS_PER_HOUR
