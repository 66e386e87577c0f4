"""The load balancer: spread, stickiness, re-homing, and verl's own protocol and factory."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.balancer import LoadBalancer

ROOT = Path(__file__).parents[2]


def balancer(count: int = 4, **config: object) -> LoadBalancer:
    return LoadBalancer({f"replica-{index}": index for index in range(count)}, config)


@pytest.mark.parametrize("between_turns", [False, True])
def test_new_sessions_spread_evenly(between_turns: bool) -> None:
    servers = balancer()
    homes = Counter()
    for session in range(100):
        name, handle = servers.acquire_server(f"session-{session}")
        assert name == f"replica-{handle}"
        homes[name] += 1
        if between_turns:
            servers.release_server(name)
    assert max(homes.values()) - min(homes.values()) <= 1
    assert servers.get_total_inflight() == (0 if between_turns else 100)


def test_a_session_stays_and_new_ones_avoid_the_loaded() -> None:
    servers = balancer(2)
    home, _ = servers.acquire_server("a")
    assert [servers.acquire_server("a")[0] for _ in range(3)] == [home] * 3
    other, _ = servers.acquire_server("b")
    assert other != home
    assert {servers.acquire_server(name)[0] for name in "cde"} == {other}


def test_removal_rehomes_its_sessions_only() -> None:
    servers = balancer()
    homes = {str(session): servers.acquire_server(str(session))[0] for session in range(40)}
    servers.remove_servers(["replica-2", "unknown"])
    for session, home in homes.items():
        name, _ = servers.acquire_server(session)
        assert name != "replica-2"
        assert name == home or home == "replica-2"


def test_calls_outlive_their_server_and_count_again_when_it_returns() -> None:
    servers = balancer(2)
    home, _ = servers.acquire_server("a")
    servers.acquire_server("a")
    servers.remove_servers([home])
    assert servers.get_total_inflight() == 0
    servers.release_server(home)
    servers.add_servers({home: 7})
    assert servers.get_inflight_count(home) == 1
    servers.release_server(home)
    servers.release_server(home)
    assert servers.get_inflight_count(home) == 0


def test_empty_pool_and_late_additions() -> None:
    servers = LoadBalancer({})
    with pytest.raises(RuntimeError, match="No available servers"):
        servers.acquire_server("a")
    servers.add_servers({"x": "handle"})
    assert servers.acquire_server("a") == ("x", "handle")


def test_sticky_memory_is_bounded_and_can_be_cleared() -> None:
    servers = balancer(2, max_sticky_sessions=3)
    for session in range(10):
        servers.acquire_server(str(session))
    assert sum(servers.get_status()["sessions"].values()) == 3
    assert servers.clear_sticky_cache()["cleared_entries"] == 3
    assert servers.get_status()["servers"] == {"replica-0": 5, "replica-1": 5}


@given(st.sets(st.text(max_size=5), min_size=1, max_size=6), st.lists(st.text(), max_size=30), st.data())
def test_rendezvous_moves_only_what_it_must(names: set[str], sessions: list[str], data: st.DataObject) -> None:
    ordered = data.draw(st.permutations(sorted(names)))
    servers = LoadBalancer(dict.fromkeys(ordered), {"routing": "rendezvous"})
    again = LoadBalancer(dict.fromkeys(sorted(names)), full_determinism=True)
    homes = {session: servers.acquire_server(session)[0] for session in reversed(sessions)}
    assert homes == {session: again.acquire_server(session)[0] for session in homes}
    removed = ordered[0]
    if len(names) > 1:
        servers.remove_servers([removed])
        for session, home in homes.items():
            assert (servers.acquire_server(session)[0] == home) == (home != removed)
        servers.add_servers({removed: None})
        assert homes == {session: servers.acquire_server(session)[0] for session in homes}


def test_rendezvous_is_the_same_in_every_process() -> None:
    program = (
        "from runtime.balancer import LoadBalancer\n"
        "b = LoadBalancer(dict.fromkeys('abc'), {'routing': 'rendezvous'})\n"
        "print(''.join(b.acquire_server(str(n))[0] for n in range(30)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert set(outputs.pop().decode().strip()) == set("abc")


def test_wrong_settings_say_what_is_allowed() -> None:
    with pytest.raises(
        ValueError, match="unknown setting 'rooting'; allowed: max_sticky_sessions, router_class, routing"
    ):
        balancer(rooting="x")
    with pytest.raises(ValueError, match="'fastest'; allowed: least_in_flight, rendezvous"):
        balancer(routing="fastest")
    with pytest.raises(ValueError, match="max_sticky_sessions: 0"):
        balancer(max_sticky_sessions=0)


@given(
    st.lists(st.tuples(st.sampled_from(["acquire", "release", "remove", "add", "forget", "clear"]), st.integers(0, 5)))
)
def test_counts_agree_with_a_plain_list_of_calls(operations: list[tuple[str, int]]) -> None:
    servers = LoadBalancer({"s0": 0, "s1": 1})
    calls: list[str] = []
    pool = {"s0", "s1"}
    for what, number in operations:
        server = f"s{number % 3}"
        if what == "acquire" and pool:
            calls.append(servers.acquire_server(f"session-{number}")[0])
            assert calls[-1] in pool
        elif what == "release" and calls:
            servers.release_server(calls.pop(number % len(calls)))
        elif what == "remove":
            servers.remove_servers([server])
            pool.discard(server)
        elif what == "add":
            servers.add_servers({server: number})
            pool.add(server)
        elif what == "forget":
            servers.forget_session(f"session-{number}")
        elif what == "clear":
            servers.clear_sticky_cache()
        assert servers.get_status()["servers"] == {name: calls.count(name) for name in servers.get_all_servers()}
        assert set(servers.get_all_servers()) == pool


@pytest.mark.verl
def test_it_is_a_router_that_verl_can_load(tmp_path) -> None:
    """In a process of its own: importing verl and Ray costs seconds and warns."""
    config = tmp_path / "router.yaml"
    config.write_text("router_class: runtime.balancer.LoadBalancer\nrouting: rendezvous\n")
    program = f"""
import inspect, ray
from runtime.balancer import LoadBalancer
from verl.workers.rollout.router import RequestLoadBalancer, get_router_handle
for name, method in vars(RequestLoadBalancer).items():
    if inspect.isfunction(method) and not name.startswith("_"):
        ours = inspect.signature(getattr(LoadBalancer, name))
        assert list(ours.parameters) == list(inspect.signature(method).parameters), name
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
by_yaml = get_router_handle({{"a": 1, "b": 2}}, router_config_path={str(config)!r})
by_class = get_router_handle({{"a": 1}}, load_balancer_cls=LoadBalancer)
for router in (by_yaml, by_class):
    assert ray.get(router.require_acquire_fields.remote()) == []
    name, handle = ray.get(router.acquire_server.remote(request_id="session"))
    ray.get(router.release_server.remote(server_id=name, request_id="session"))
    assert ray.get(router.get_total_inflight.remote()) == 0
ray.shutdown()
print("works")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.endswith("works\n"), done.stderr
