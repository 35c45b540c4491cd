"""What is believed to be given out, between what the kubelet shows and what it cannot show."""

from __future__ import annotations

from fleetpack.core.cores import parse_cores
from fleetpack.device_plugin.accounts import (
    GRANT_SECONDS,
    MISSING_SECONDS,
    Accounts,
    Grant,
    Holding,
    LivePods,
    Reading,
    granted,
    observed,
    presumed,
)
from fleetpack.device_plugin.silicon import NeuronResource

CORE, DEVICE = NeuronResource.CORE, NeuronResource.DEVICE
NOBODY = LivePods(names=frozenset())


def holding(pod: str, cores: str, resource: NeuronResource = CORE, container: str = "server") -> Holding:
    return Holding(pod=f"default/{pod}", container=container, resource=resource, cores=parse_cores(cores))


def reading(at: float, *holdings: Holding) -> Reading:
    return Reading(started_at=at, holdings=holdings)


def live(*pods: str, init: bool = False) -> LivePods:
    return LivePods(names=frozenset(f"default/{pod}" for pod in pods), any_init_requests=init)


def grant(cores: str, at: float, resource: NeuronResource = CORE) -> Grant:
    return Grant(resource=resource, cores=parse_cores(cores), granted_at=at)


def test_should_take_over_what_the_kubelet_shows() -> None:
    accounts = observed(Accounts(), reading(1.0, holding("a", "0-3"), holding("b", "4-5", DEVICE)), NOBODY)
    assert (accounts.held_through(CORE), accounts.held_through(DEVICE)) == (parse_cores("0-3"), parse_cores("4-5"))


def test_should_count_a_grant_until_the_kubelet_shows_it() -> None:
    accounts = granted(Accounts(), grant("0-3", 1.0))
    accounts = observed(accounts, reading(2.0), NOBODY)
    assert accounts.held_through(CORE) == parse_cores("0-3")
    accounts = observed(accounts, reading(3.0, holding("a", "0-3")), NOBODY)
    assert (accounts.grants, accounts.held_through(CORE)) == ((), parse_cores("0-3"))


def test_should_give_up_a_grant_that_nobody_ever_took() -> None:
    accounts = granted(Accounts(), grant("0-3", 1.0))
    assert observed(accounts, reading(1.0 + GRANT_SECONDS + 0.1), NOBODY) == Accounts()


def test_should_give_up_no_grant_while_an_init_container_may_hold_it() -> None:
    accounts = granted(Accounts(), grant("0-3", 1.0))
    assert observed(accounts, reading(1000.0), live("a", init=True)) == accounts


def test_should_keep_a_grant_that_is_newer_than_the_question() -> None:
    accounts = granted(Accounts(), grant("0-3", 5.0))
    # The old holder of the same cores is still in an answer that was asked for before the grant.
    accounts = observed(accounts, reading(4.0, holding("old", "0-1")), live("old"))
    assert accounts.grants == (grant("0-3", 5.0),)


def test_should_let_go_when_kubelet_and_api_server_agree_that_the_pod_is_gone() -> None:
    accounts = observed(Accounts(), reading(1.0, holding("a", "0-3")), live("a"))
    assert observed(accounts, reading(2.0), NOBODY) == Accounts()


def test_should_hold_on_while_the_kubelet_shows_nobody_and_the_pod_lives() -> None:
    accounts = observed(Accounts(), reading(1.0, holding("a", "0-3")), live("a"))
    for at in (2.0, 2.0 + MISSING_SECONDS - 0.1):
        accounts = observed(accounts, reading(at), live("a"))
        assert (accounts.held_through(CORE), accounts.shown) == (parse_cores("0-3"), ())
    assert observed(accounts, reading(2.0 + MISSING_SECONDS), live("a")) == Accounts()


def test_should_hold_on_while_the_api_server_is_not_known() -> None:
    accounts = observed(Accounts(), reading(1.0, holding("a", "0-3")), None)
    assert observed(accounts, reading(2.0), None).held_through(CORE) == parse_cores("0-3")


def test_should_count_the_time_of_a_missing_pod_only_while_the_api_server_is_known() -> None:
    accounts = observed(Accounts(), reading(1.0, holding("a", "0-3")), live("a"))
    for at in (2.0, 100.0, 1000.0):
        accounts = observed(accounts, reading(at), None)
    assert accounts.held_through(CORE) == parse_cores("0-3")
    accounts = observed(accounts, reading(1000.0 + MISSING_SECONDS - 0.1), live("a"))
    assert accounts.held_through(CORE) == parse_cores("0-3")
    assert observed(accounts, reading(1000.0 + MISSING_SECONDS), live("a")) == Accounts()


def test_should_believe_the_kubelet_where_it_gives_the_same_cores_anew() -> None:
    accounts = observed(Accounts(), reading(1.0, holding("a", "0-3")), live("a"))
    assert granted(accounts, grant("2-5", 2.0)) == Accounts(grants=(grant("2-5", 2.0),))
    accounts = observed(accounts, reading(2.0, holding("b", "2-5")), live("a", "b"))
    assert set(accounts.held_by({})) == {"default/b"}


def test_should_not_mistake_a_gift_of_the_other_resource_for_a_new_owner() -> None:
    accounts = observed(Accounts(), reading(1.0, holding("a", "0-3")), live("a"))
    accounts = granted(accounts, grant("4-5", 2.0, DEVICE))
    assert (accounts.held_through(CORE), accounts.held_through(DEVICE)) == (parse_cores("0-3"), parse_cores("4-5"))


def test_should_start_from_annotations_and_go_on_from_the_kubelets_list() -> None:
    accounts = presumed([holding("a", "0-3", container=""), holding("b", "4-5", container="")], 1.0)
    accounts = observed(accounts, reading(1.0, holding("a", "0-3")), live("a", "b"))
    assert (accounts.shown, accounts.held_through(CORE)) == ((holding("a", "0-3"),), parse_cores("0-5"))
