"""A cluster of which nodes are away: who waits, how long, and what people are told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers.fault_server import Fault, FaultServer
from helpers.store_points import DIM, make_queries
from tsembed_search.errors import StoreError, UsageError
from tsembed_search.store.base import Point, StoreSettings
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant import connection as cluster
from tsembed_search.store.qdrant import connection as connection_module
from tsembed_search.store.qdrant.connection import WRITING, Cluster, Connection, Patience
from tsembed_search.store.qdrant.store import ServerStore

SOON = Patience(total=30.0, first=0.01, longest=0.1, stuck=1.0, told=0.2, again=5.0)
HASTY = Patience(total=0.5, first=0.01, longest=0.1, told=0.1)
UPSERT = "PUT .*/points$"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setattr(connection_module, "_BETWEEN_LOOKS", 0.05)
    running = FaultServer()
    running.nodes = 3
    yield running
    running.stop()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def make_store(server: FaultServer, patience: Patience = SOON) -> ServerStore:
    connection = Connection(server.url, reading=patience, writing=patience)
    collection.create(connection, "pics", StoreSettings(DIM))
    return ServerStore(connection, "pics")


CHANGES: dict[str, Callable[[ServerStore, list[Point]], object]] = {
    "add": lambda store, points: store.upsert(points),
    "change": lambda store, points: store.set_payloads({points[0].id: {"page": 9}}),
    "remove": lambda store, points: store.delete([points[0].id]),
    "metadata": lambda store, points: store.write_metadata({"model": "mini"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_without_half_of_its_nodes_a_cluster_is_given_up_soon(
    change: str, server: FaultServer, points: list[Point], told: Callable[[], list[str]]
) -> None:
    store = make_store(server)
    store.upsert(points[:100])
    server.away = {2, 3}
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        CHANGES[change](store, points)
    assert 0.5 < time.monotonic() - began < 5, "long before the end of the patience with one server"
    assert "2 of the cluster's 3 nodes are away (node2.test:6335, node3.test:6335)" in caught.value.message
    assert "more than half" in caught.value.hint and "goes on from there" in caught.value.hint
    (message,) = told()
    assert message.startswith(f"Waiting for {server.url}: 2 of the cluster's 3 nodes are away (node2.test:6335,")
    assert "Giving up in 1 s" in message
    assert {record.id for record in store.scroll()} >= {point.id for point in points[1:100]}, "reading needs no quorum"
    assert store.search(make_queries(1), 5)[0]


@pytest.mark.parametrize(
    ("nodes", "away", "leader"),
    [(2, {2}, True), (3, {2, 3}, True), (4, {2, 3}, True), (5, {2, 3, 5}, True), (3, set(), False)],
)
def test_which_clusters_are_stuck(
    nodes: int, away: set[int], leader: bool, server: FaultServer, points: list[Point]
) -> None:
    store = make_store(server)
    server.nodes, server.away, server.leader = nodes, away, leader
    with pytest.raises(StoreError) as caught:
        store.upsert(points)
    for node in away:
        assert f"node{node}.test:6335" in caught.value.message
    assert leader or "have not agreed on a leader" in caught.value.message


def test_nodes_that_come_back_are_waited_for(
    server: FaultServer, points: list[Point], told: Callable[[], list[str]]
) -> None:
    store = make_store(server, Patience(total=30.0, first=0.01, longest=0.1, stuck=15.0, told=0.2))
    server.away = {2, 3}
    back = threading.Timer(1.0, server.away.clear)
    back.start()
    store.upsert(points)
    back.join()
    assert server.points("tsembed-pics") == len(points)
    assert [message.partition(":")[0] for message in told()] == ["Waiting for http", "http"]
    assert "answers again" in told()[1]
    tries = len(server.bodies(UPSERT))
    assert tries <= 12, "while it is stuck, it is asked how it is, and nothing that would hang"


def test_a_write_that_hangs_is_told_of_before_it_is_answered(
    server: FaultServer, points: list[Point], told: Callable[[], list[str]]
) -> None:
    store = make_store(server, Patience(total=30.0, first=0.01, stuck=3.0, told=0.2))
    server.away, server.hang = {2, 3}, 3.0
    heard: list[list[str]] = []
    look = threading.Timer(2.0, lambda: heard.append(told()))
    look.start()
    with pytest.raises(StoreError, match="nodes are away"):
        store.write_metadata({})
    look.join()
    assert heard and "Waiting for" in heard[0][0]


def test_one_of_three_may_restart(server: FaultServer, points: list[Point], told: Callable[[], list[str]]) -> None:
    store = make_store(server)
    server.away = {3}
    server.faults.append(Fault("status", UPSERT, times=12, status=500))
    store.upsert(points)
    assert server.points("tsembed-pics") == len(points)
    assert all("1 of the cluster's 3 nodes is away (node3.test:6335)" in each for each in told() if "Waiting" in each)


def test_a_shard_whose_node_is_away_is_named_in_the_end(server: FaultServer, points: list[Point]) -> None:
    store = make_store(server, HASTY)
    server.away = {3}
    server.faults.append(Fault("status", "query", times=10**6, status=500))
    with pytest.raises(
        StoreError, match=r"Cannot search .*: 1 of the cluster's 3 nodes is away \(node3.test:6335\)"
    ) as caught:
        store.search(make_queries(1), 5)
    assert caught.value.hint.startswith("Start it again")


def test_a_busy_server_alone_is_waited_for_and_asked_once_for_its_cluster(
    server: FaultServer, points: list[Point], told: Callable[[], list[str]]
) -> None:
    server.nodes = 1
    store = make_store(server, Patience(total=30.0, first=0.05, longest=0.1, stuck=0.1, told=0.2))
    server.faults.append(Fault("status", UPSERT, times=20, status=503))
    store.upsert(points)
    assert server.points("tsembed-pics") == len(points)
    assert len([request for request in server.requests if request.path == "/cluster"]) <= 4
    assert "it answers 503 (out of order). Giving up in 30 s" in told()[0] and len(told()) == 2


def test_a_server_that_cannot_be_reached_is_told_of(
    server: FaultServer, points: list[Point], told: Callable[[], list[str]]
) -> None:
    store = make_store(server)
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    store.upsert(points)
    back.join()
    assert "it cannot be reached. Giving up in" in told()[0] and "answers again" in told()[-1]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "GET /cluster", times=99, status=403),
        Fault("status", "GET /cluster", times=99, status=404),
        Fault("status", "GET /cluster", times=99, status=500),
        Fault("drop", "GET /cluster", times=99),
        Fault("slow", "GET /cluster", times=99, seconds=0.5),
    ],
    ids=lambda fault: f"{fault.what} {fault.status}",
)
def test_trouble_with_the_question_is_not_what_is_told(
    fault: Fault, server: FaultServer, points: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT", 0.1)
    store = make_store(server, HASTY)
    server.faults += [fault, Fault("status", UPSERT, times=10**6, status=503)]
    with pytest.raises(StoreError, match=r"keeps answering 503 \(out of order\)"):
        store.upsert(points)


@pytest.mark.parametrize(
    "result", [None, [], "x", {}, {"status": "disabled"}, {"status": "enabled", "peers": {"1": {}}}]
)
def test_a_server_alone(result: Any) -> None:
    try:
        found = cluster.parse(result)
    except (AttributeError, TypeError, LookupError):
        return  # `ask` takes it for no answer
    assert found == Cluster(1, ()) and not found.stuck and not found.words()


def test_failures_of_nodes_that_have_left_do_not_count(server: FaultServer) -> None:
    server.away = {2}
    answer = server.cluster()
    answer["message_send_failures"]["http://gone.test:6335/"] = {"count": 3}
    assert cluster.parse(answer) == Cluster(3, ("node2.test:6335",))


def test_how_long_is_waited() -> None:
    assert WRITING.total == 120 and WRITING.stuck == 30


@pytest.mark.parametrize("key", ["sch\u00f6n", "a\nb", "\u200bkey", "k\x00", "\u043a\u043b\u044e\u0447"])
def test_a_key_that_no_request_can_carry(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"QDRANT_API_KEY": key})
    with pytest.raises(UsageError, match="QDRANT_API_KEY") as caught:
        Connection("http://localhost:6333")
    assert key not in str(caught.value)
