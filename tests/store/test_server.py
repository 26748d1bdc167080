"""The server engine over HTTP: what it asks of a server, and what it makes of trouble."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.fault_server import Fault, FaultServer
from helpers.store_points import DIM, make_points, make_queries, nearest
from tsembed_search.errors import IndexMismatchError, StoreError, UsageError
from tsembed_search.paths import IndexAddress
from tsembed_search.ranking.words import query_words
from tsembed_search.search.where import parse_where
from tsembed_search.store import opening
from tsembed_search.store.base import Point, Search, StoreSettings
from tsembed_search.store.filters import matches
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant import connection as connection_module
from tsembed_search.store.qdrant.connection import Connection, Patience
from tsembed_search.store.qdrant.store import ServerStore
from tsembed_search.store.schema import PAYLOAD_INDEXES

QUICK = Patience(total=20.0, first=0.01, longest=0.1)
HASTY = Patience(total=0.2, first=0.01, longest=0.1)
UPSERT = "PUT .*/points$"
NOWHERE = Path("/nowhere")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    running = FaultServer()
    yield running
    running.stop()


def connect(server: FaultServer, patience: Patience = QUICK) -> Connection:
    return Connection(server.url, reading=patience, writing=patience)


def make_store(server: FaultServer, patience: Patience = QUICK, **settings: object) -> ServerStore:
    connection = connect(server, patience)
    collection.create(connection, "pics", StoreSettings(DIM, **settings))  # type: ignore[arg-type]
    return ServerStore(connection, "pics")


def check_whole(store: ServerStore, points: list[Point]) -> None:
    """The store holds exactly these points."""
    found = {record.id: record for record in store.scroll(with_vectors=True)}
    assert found.keys() == {point.id for point in points}
    for point in points:
        record = found[point.id]
        assert record.payload == point.payload
        assert record.vector is not None and np.allclose(record.vector, point.vector, atol=1e-6)


def test_everything_works_over_http(server: FaultServer, points: list[Point]) -> None:
    store = make_store(server)
    store.upsert(points)
    check_whole(store, points)
    queries = make_queries(3)
    for text in (None, "kind=image and page!=2", "path~holiday/*.jpg", "modified>=@1700000300 or expert=b1e1"):
        where = None if text is None else parse_where(text)
        chosen = [point for point in points if matches(where, point.payload)]
        assert store.count(where) == len(chosen)
        assert sum(store.facet("kind", where).values()) == len(chosen)
        for query, hits in zip(queries, store.search(queries, 7, where), strict=True):
            assert [hit.id for hit in hits] == list(nearest(points, query, where))[:7]
    store.set_payloads({points[0].id: {"page": 9}})
    assert store.retrieve([points[0].id])[0].payload["page"] == 9
    store.delete([point.id for point in points[10:]])
    store.write_metadata({"model": "mini", "old": 1})
    store.write_metadata({"model": "mini"})
    store.close()
    again = ServerStore(connect(server), "pics")
    assert again.metadata == {"model": "mini"}
    assert again.settings == StoreSettings(DIM)
    assert (again.info().points, again.info().details["url"]) == (10, server.url)
    assert server.indexes["tsembed-pics"].keys() == PAYLOAD_INDEXES.keys()


def test_what_is_chosen_at_creation_reaches_the_server(server: FaultServer) -> None:
    make_store(server, quantize="binary", shards=3, replicas=2)
    (body,) = server.bodies("PUT /collections/tsembed-pics$")
    assert (body["shard_number"], body["replication_factor"]) == (3, 2)
    assert "binary" in body["quantization_config"]
    assert body["vectors"]["dense"] == {"size": DIM, "distance": "Cosine"}
    store = ServerStore(connect(server), "pics")
    assert store.settings.quantize == "binary"
    store.search(make_queries(1), 10)
    (search,) = server.bodies("query/batch")[-1]["searches"]
    assert search["params"]["quantization"]["rescore"] is True
    assert search["params"]["quantization"]["oversampling"] > 1


def test_all_that_is_searched_for_is_one_request(server: FaultServer, points: list[Point]) -> None:
    store = make_store(server)
    store.upsert(points)
    (vector,) = make_queries(1)
    pictures = parse_where("kind=image")
    asked = [
        Search(vector, 5),
        Search(vector, 3, pictures),
        Search(query_words(["holiday"]), 2),
        Search(vector, ids=[]),
    ]
    found = store.find([*asked, Search(vector, ids=[points[0].id])])
    assert [len(own) for own in found] == [5, 3, 2, 0, 1]
    (request,) = server.bodies("query/batch")
    assert [search["limit"] for search in request["searches"]] == [5, 3, 2, 1]


def test_uploads_are_parallel_and_in_batches(server: FaultServer) -> None:
    store = make_store(server)
    many = make_points(1500)
    server.faults.append(Fault("slow", UPSERT, times=1000, seconds=0.05))
    store.upsert(many)
    sizes = [len(body["points"]) for body in server.bodies(UPSERT)]
    assert sum(sizes) == len(many)
    assert all(64 <= size <= 256 for size in sizes[:-1])
    assert server.busiest > 1
    assert server.points("tsembed-pics") == len(many)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", UPSERT, times=3, status=503),
        Fault("status", UPSERT, times=2, status=500),
        Fault("status", UPSERT, times=1, status=429),
        Fault("status", UPSERT, times=1, status=429, headers={"Retry-After": "1"}),
        Fault("drop", UPSERT, times=3),
        Fault("lose", UPSERT, times=3),
        Fault("drop", "POST", times=4),
        Fault("slow", UPSERT, times=1, seconds=1.5),
    ],
    ids=lambda fault: f"{fault.what} {fault.status} {fault.headers}",
)
def test_passing_trouble_is_sat_out(
    server: FaultServer, points: list[Point], fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "REQUEST_SECONDS", 1)
    store = make_store(server)
    server.faults.append(Fault(fault.what, fault.where, fault.times, fault.status, fault.seconds, fault.headers))
    store.upsert(points)
    assert server.points("tsembed-pics") == len(points)
    check_whole(store, points)
    assert server.faults[0].times == 0


def test_a_server_that_goes_away_and_comes_back(server: FaultServer, points: list[Point]) -> None:
    store = make_store(server)
    store.upsert(points[:100])
    server.stop()
    back = threading.Timer(0.5, server.start)
    back.start()
    store.upsert(points[100:])
    back.join()
    check_whole(store, points)


def test_a_run_waits_for_answers_as_long_as_for_changes(
    server: FaultServer, points: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection.__init__, "__defaults__", (HASTY, QUICK))
    run = opening.open_or_create(IndexAddress("pics", server.url), StoreSettings(DIM))
    run.upsert(points)
    search = opening.open(IndexAddress("pics", server.url))
    for store, patient in ((run, True), (search, False)):
        server.stop()
        back = threading.Timer(1.0, server.start)
        back.start()
        if patient:
            assert store.count() == len(points)
            assert len(store.retrieve([points[0].id])) == 1
        else:
            with pytest.raises(StoreError, match="cannot be reached"):
                store.count()
        back.join()


def test_lasting_trouble_is_explained_and_loses_nothing(server: FaultServer, points: list[Point]) -> None:
    store = make_store(server, HASTY)
    store.upsert(points[:100])
    server.faults.append(Fault("status", UPSERT, times=10**6, status=503))
    with pytest.raises(StoreError, match=r"keeps answering 503 \(out of order\).*goes on from there"):
        store.upsert(points[100:])
    server.faults.clear()
    check_whole(store, points[:100])
    store.upsert(points)
    check_whole(store, points)


def test_a_refusal_is_not_tried_again(server: FaultServer, points: list[Point]) -> None:
    store = make_store(server)
    server.faults.append(Fault("status", UPSERT, times=10**6, status=400))
    with pytest.raises(StoreError, match=r"Cannot add items on .*: out of order"):
        store.upsert(points)
    assert len(server.bodies(UPSERT)) <= 4


def test_a_wrong_key_is_explained_and_never_shown(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.api_key = "right-key"
    with pytest.raises(StoreError, match=r"wants an API key.*QDRANT_API_KEY"):
        opening.open(IndexAddress("pics", server.url))
    monkeypatch.setenv("QDRANT_API_KEY", "wrong-secret")
    with pytest.warns(UserWarning, match="insecure"), pytest.raises(StoreError, match="not accepted") as caught:
        opening.open(IndexAddress("pics", server.url))
    assert "wrong-secret" not in str(caught.value)
    assert len(server.requests) == 2
    monkeypatch.setenv("QDRANT_API_KEY", "right-key\n")
    with pytest.warns(UserWarning, match="insecure"):
        assert opening.exists(IndexAddress("pics", server.url)) is False


def test_an_unreachable_server_is_explained(server: FaultServer) -> None:
    connection = connect(server, HASTY)
    server.stop()
    with pytest.raises(StoreError, match=r"cannot be reached.*Is the server running"):
        ServerStore(connection, "pics")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host",
        "http://",
        "http://host:notaport",
        "http://:6333",
        "http://me:secret@/x",
        "http://host:99999",
        "http://[::1",
        "http://a\x00b:6333",
        "http://\u200b:6333",
        "http://" + "x" * 70_000,
    ],
)
def test_a_bad_address_is_explained(url: str) -> None:
    with pytest.raises(UsageError, match="not the address of a server") as caught:
        Connection(url)
    assert "secret" not in str(caught.value)


def test_credentials_in_an_address_are_not_shown() -> None:
    assert Connection("https://me:secret@example.org:6333").place == "https://example.org:6333"
    assert Connection("localhost:6333").place == "http://localhost:6333"


def test_a_server_that_is_no_qdrant_is_explained(server: FaultServer) -> None:
    server.faults.append(Fault("status", "GET /$", times=9, status=404))
    with pytest.raises(StoreError, match="not a Qdrant server"):
        ServerStore(connect(server), "pics")
    server.faults[:] = [Fault("status", "GET /$", times=9, status=200)]
    with pytest.raises(StoreError, match="Cannot ask for the version"):
        ServerStore(connect(server), "pics")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>It works!</html>",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'{"result": null, "status": "ok"}',
        b'{"title": "elasticsearch", "version": {"number": "8.1"}}',
        b'{"title": "x", "version": "x"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_what_other_servers_answer_is_explained(
    answer: bytes, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.constant = answer
    for ask in (
        lambda: ServerStore(connect(server, HASTY), "pics"),
        lambda: opening.exists(IndexAddress("pics", server.url)),
    ):
        with pytest.raises(StoreError, match=r"Cannot .* on http|version") as caught:
            ask()
        assert caught.value.hint


def test_a_missing_index_is_explained(server: FaultServer) -> None:
    with pytest.raises(StoreError, match=r"no index called 'pics' on http"):
        ServerStore(connect(server), "pics")


@pytest.mark.parametrize(
    "body",
    [
        {"vectors": {"size": DIM, "distance": "Cosine"}},
        {"vectors": {"dense": {"size": DIM, "distance": "Dot"}}, "metadata": {"tsembed": {"schema": 1}}},
        {"vectors": {"dense": {"size": DIM, "distance": "Cosine"}}},
        {"vectors": {"dense": {"size": DIM, "distance": "Cosine"}}, "metadata": {"tsembed": 3}},
        {"vectors": {"dense": {"size": DIM, "distance": "Cosine"}}, "metadata": {"tsembed": {"quantize": "x"}}},
        {"vectors": {"dense": {"size": DIM, "distance": "Cosine"}}, "metadata": {"tsembed": {"metadata": "x"}}},
    ],
)
def test_a_foreign_collection_is_left_alone(server: FaultServer, body: dict[str, object]) -> None:
    server.obey("PUT", "/collections/tsembed-pics", body)
    with pytest.raises(StoreError, match="was not made by tsembed"):
        opening.open_or_create(IndexAddress("pics", server.url), StoreSettings(DIM))


def test_another_layout_or_size_is_explained(server: FaultServer) -> None:
    make_store(server)
    with pytest.raises(IndexMismatchError, match="vectors of 16 numbers; this model makes 99"):
        opening.open_or_create(IndexAddress("pics", server.url), StoreSettings(99))
    server.engine.update_collection("tsembed-pics", metadata={"tsembed": {"schema": 99}})
    with pytest.raises(StoreError, match="layout 99"):
        opening.open(IndexAddress("pics", server.url))


def test_an_index_is_not_created_twice(server: FaultServer) -> None:
    make_store(server)
    with pytest.raises(StoreError, match="already exists"):
        make_store(server)


def test_a_creation_whose_answer_was_lost_succeeds(server: FaultServer, points: list[Point]) -> None:
    server.faults.append(Fault("lose", "PUT /collections/tsembed-pics$"))
    store = make_store(server)
    store.upsert(points[:5])
    assert store.count() == 5


def test_a_creation_cut_short_is_completed(server: FaultServer) -> None:
    server.faults.append(Fault("status", "PUT .*/index$", times=9, status=400))
    with pytest.raises(StoreError, match="Cannot index the field"):
        make_store(server)
    server.faults.clear()
    ServerStore(connect(server), "pics")
    assert server.indexes["tsembed-pics"].keys() == PAYLOAD_INDEXES.keys()


def test_an_old_server_is_refused(server: FaultServer) -> None:
    server.version = "1.15.4"
    with pytest.raises(StoreError, match=r"version 1\.15\.4; 1\.16 or newer"):
        ServerStore(connect(server), "pics")


def test_an_older_server_is_not_asked_for_what_it_lacks(server: FaultServer, points: list[Point]) -> None:
    server.version = "1.18.2"
    store = make_store(server)
    store.upsert(points)
    for text in ("path~holiday/*.jpg", "path~/pics", "path~'*holiday*'", "not path~/docs and kind=image"):
        where = parse_where(text)
        expected = {point.id for point in points if matches(where, point.payload)}
        assert {record.id for record in store.scroll(where)} == expected
        assert {hit.id for hit in store.search(make_queries(1), 1000, where)[0]} == expected
    assert not [request for request in server.requests if "prefix" in json.dumps(request.body)]
    assert not [request for request in server.requests if "substring" in json.dumps(request.body)]


@pytest.mark.server
def test_a_real_server(points: list[Point]) -> None:
    """Needs `TSEMBED_QDRANT_URL`; makes a collection of its own and removes it."""
    url = os.environ.get("TSEMBED_QDRANT_URL")
    if not url:
        pytest.skip("TSEMBED_QDRANT_URL is not set")
    connection, name = Connection(url), f"test-{uuid.uuid4().hex}"
    try:
        for quantize in ("none", "scalar", "binary"):
            collection.create(connection, name, StoreSettings(DIM, quantize))  # type: ignore[arg-type]
            store = ServerStore(connection, name)
            store.upsert(points)
            store.write_metadata({"a": 1, "b": 2})
            store.write_metadata({"a": 2})
            again = ServerStore(connection, name)
            deadline = time.monotonic() + 5
            while again.metadata != {"a": 2} and time.monotonic() < deadline:  # nodes of a cluster agree later
                time.sleep(0.05)
                again = ServerStore(connection, name)
            assert (again.metadata, again.settings) == ({"a": 2}, StoreSettings(DIM, quantize))  # type: ignore[arg-type]
            check_whole(again, points)
            for text in ("kind=image", "path~holiday/*.jpg", "path~/pics", "page!=3", "modified>=@1700000300"):
                where = parse_where(text)
                assert again.count(where) == sum(matches(where, point.payload) for point in points)
                for query, hits in zip(
                    make_queries(3), again.search(make_queries(3), 10, where, exact=True), strict=True
                ):
                    assert [hit.id for hit in hits] == list(nearest(points, query, where))[:10]
            connection.client.delete_collection(f"tsembed-{name}")
    finally:
        connection.client.delete_collection(f"tsembed-{name}")


@pytest.mark.parametrize(("scheme", "checked"), [("http", False), ("https", True)])
def test_certificates_are_read_where_there_are_any(scheme: str, checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is trusted without one."""
    import ssl

    import httpx

    contexts: list[ssl.SSLContext] = []
    plain = httpx.Client.__init__

    def made(self: httpx.Client, **named: Any) -> None:
        contexts.append(named["verify"])
        plain(self, **named)

    monkeypatch.setattr(httpx.Client, "__init__", made)
    Connection(f"{scheme}://example.org:6333")
    assert len(contexts) >= 2
    for context in contexts:
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        assert bool(context.cert_store_stats()["x509_ca"]) == checked
