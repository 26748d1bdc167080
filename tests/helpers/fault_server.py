"""A small Qdrant server that fails on command: enough of the REST API, in front of qdrant-client's in-memory engine."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic_core import to_jsonable_python
from qdrant_client import QdrantClient, models


@dataclass
class Fault:
    """What happens to the next `times` requests whose method and path match `where`.

    `status` answers with it, `drop` breaks the connection before the request is obeyed, `lose` after, `slow` obeys and
    answers after `seconds`.
    """

    what: str
    where: str = "."
    times: int = 1
    status: int = 503
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request that arrived."""

    method: str
    path: str
    body: Any


class FaultServer:
    """The server: `url`, the `requests` it got, the `faults` still to come, and what it pretends to be.

    With `nodes` it is the first of a cluster of so many, of which those in `away` (numbered from 2) cannot be reached.
    When half of them are away, changes hang for `hang` seconds and fail, as they do on a real one.
    """

    def __init__(self) -> None:
        self.engine = QdrantClient(":memory:")
        self.indexes: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.api_key: str | None = None
        self.version = "1.20.0"
        self.constant: bytes | None = None  # what it answers to everything, for a server that is another
        self.nodes = 1
        self.away: set[int] = set()
        self.leader = True
        self.hang = 0.05
        self.busiest = 0
        self._busy = 0
        self._lock = threading.Lock()
        self._engine_lock = threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Begins to listen, on the same port as before."""
        handler = type("Handler", (_Handler,), {"owner": self})
        ThreadingHTTPServer.allow_reuse_address = True
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._http.daemon_threads = True
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections, and forgets nothing."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def points(self, collection: str) -> int:
        return self.engine.count(collection).count

    def bodies(self, pattern: str) -> list[Any]:
        """The bodies of the requests whose method and path match."""
        return [request.body for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    def next_fault(self, line: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, line):
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    @property
    def stuck(self) -> bool:
        """Whether nodes that are away keep the others from agreeing on anything."""
        return self.nodes > 1 and (2 * len(self.away) >= self.nodes or not self.leader)

    def cluster(self) -> dict[str, Any]:
        """What a real server of version 1.18 answers to `GET /cluster`."""
        if self.nodes == 1:
            return {"status": "disabled"}
        uris = {node: f"http://node{node}.test:6335/" for node in range(1, self.nodes + 1)}
        refused = {"count": 9, "latest_error": "tcp connect error", "latest_error_timestamp": "2026-11-28T16:18:20Z"}
        return {
            "status": "enabled",
            "peer_id": 1,
            "peers": {str(node): {"uri": uri} for node, uri in uris.items()},
            "raft_info": {"term": 1, "commit": 9, "leader": 1 if self.leader else 0, "role": "Leader"},
            "consensus_thread_status": {"consensus_thread_status": "working"},
            "message_send_failures": {uris[node]: refused for node in self.away},
        }

    def obey(self, method: str, path: str, body: Any) -> Any:
        """The `result` of one request. Raises `LookupError` for an unknown path, `ValueError` for a refusal."""
        if path == "/":
            return None
        if path == "/cluster":
            return self.cluster()
        if self.stuck and re.search(_CHANGES, f"{method} {path}"):
            time.sleep(self.hang)
            raise TimeoutError(_NO_CONSENSUS if method == "PATCH" else _NO_REPLICA)
        for pattern, handle in ROUTES.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                with self._engine_lock:
                    return to_jsonable_python(handle(self, found[1], body))
        raise LookupError(path)


_CHANGES = "^(PUT|PATCH|DELETE)|/points/(delete|batch)$"
_NO_CONSENSUS = "Service internal error: Waiting for consensus operation commit failed. Timeout set at: 10 seconds"
_NO_REPLICA = (
    "Service internal error: Some replica of shard 2 failed to apply operation and deactivation timed out after 30s. "
    "Consistency of this update is not guaranteed. Please retry. Failed peer: 2132610598092575, error: Service "
    "internal error: Tonic status error: code: 'The service is currently unavailable', message: \"tcp connect error\""
)


def _create(server: FaultServer, name: str, body: Any) -> Any:
    asked = models.CreateCollection(**body)
    if server.engine.collection_exists(name):
        raise FileExistsError(f"Wrong input: Collection `{name}` already exists!")
    server.indexes[name] = {}
    return server.engine.create_collection(
        name, vectors_config=asked.vectors, sparse_vectors_config=asked.sparse_vectors, metadata=asked.metadata
    )


def _facts(server: FaultServer, name: str, body: Any) -> Any:
    facts = server.engine.get_collection(name)
    facts.payload_schema = {
        key: models.PayloadIndexInfo(data_type=kind, points=0) for key, kind in server.indexes.get(name, {}).items()
    }
    return facts


def _add_index(server: FaultServer, name: str, body: Any) -> Any:
    schema = body["field_schema"]
    server.indexes[name][body["field_name"]] = schema if isinstance(schema, str) else schema["type"]
    return _done()


def _upsert(server: FaultServer, name: str, body: Any) -> Any:
    return server.engine.upsert(name, models.PointsList(**body).points)


def _retrieve(server: FaultServer, name: str, body: Any) -> Any:
    asked = models.PointRequest(**body)
    return server.engine.retrieve(
        name, asked.ids, with_payload=asked.with_payload or False, with_vectors=asked.with_vector or False
    )


def _scroll(server: FaultServer, name: str, body: Any) -> Any:
    asked = models.ScrollRequest(**body)
    points, offset = server.engine.scroll(
        name,
        scroll_filter=asked.filter,
        limit=asked.limit or 10,
        offset=asked.offset,
        with_payload=asked.with_payload or False,
        with_vectors=asked.with_vector or False,
    )
    return {"points": points, "next_page_offset": offset}


def _search(server: FaultServer, name: str, body: Any) -> Any:
    asked = models.QueryRequestBatch(**body).searches
    for request in asked:
        request.params = None
    return server.engine.query_batch_points(name, asked)


def _facet(server: FaultServer, name: str, body: Any) -> Any:
    asked = models.FacetRequest(**body)
    return server.engine.facet(name, asked.key, facet_filter=asked.filter, limit=asked.limit or 10)


def _batch(server: FaultServer, name: str, body: Any) -> Any:
    kinds = {"set_payload": models.SetPayloadOperation, "update_vectors": models.UpdateVectorsOperation}
    asked = [kinds[kind].model_validate(each) for each in body["operations"] for kind in each]
    return server.engine.batch_update_points(name, asked)


def _done() -> Any:
    return {"operation_id": 0, "status": "completed"}


ROUTES: dict[str, Callable[[FaultServer, str, Any], Any]] = {
    "GET /collections/([^/]+)/exists": lambda server, name, body: {"exists": server.engine.collection_exists(name)},
    "GET /collections/([^/]+)": _facts,
    "PUT /collections/([^/]+)": _create,
    "PATCH /collections/([^/]+)": lambda server, name, body: server.engine.update_collection(
        name, metadata=body["metadata"]
    ),
    "PUT /collections/([^/]+)/index": _add_index,
    "PUT /collections/([^/]+)/points": _upsert,
    "POST /collections/([^/]+)/points": _retrieve,
    "POST /collections/([^/]+)/points/delete": lambda server, name, body: server.engine.delete(name, body["points"]),
    "POST /collections/([^/]+)/points/batch": _batch,
    "POST /collections/([^/]+)/points/scroll": _scroll,
    "POST /collections/([^/]+)/points/count": lambda server, name, body: server.engine.count(
        name, models.CountRequest(**body).filter
    ),
    "POST /collections/([^/]+)/points/query/batch": _search,
    "POST /collections/([^/]+)/facet": _facet,
}


class _Handler(BaseHTTPRequestHandler):
    owner: FaultServer

    def do_GET(self) -> None:
        self._handle()

    do_PUT = do_POST = do_PATCH = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _handle(self) -> None:
        path = self.path.partition("?")[0]
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(content) if content else None
        with self.owner.counted():
            self.owner.requests.append(Request(self.command, path, body))
            fault = self.owner.next_fault(f"{self.command} {path}")
            if fault is None or fault.what in ("lose", "slow"):
                self._obey(path, body, fault)
            elif fault.what == "status":
                self._answer(fault.status, {"status": {"error": "out of order"}}, fault.headers)
            else:
                self.close_connection = True

    def _obey(self, path: str, body: Any, fault: Fault | None) -> None:
        if self.owner.api_key is not None and self.headers.get("api-key") != self.owner.api_key:
            return self._answer(401, {"status": {"error": "Invalid API key or JWT"}})
        try:
            result = self.owner.obey(self.command, path, body)
        except LookupError:
            return self._answer(404, {"status": {"error": ""}})
        except TimeoutError as error:
            return self._answer(500, {"status": {"error": str(error)}})
        except FileExistsError as error:
            return self._answer(409, {"status": {"error": str(error)}})
        except ValueError as error:
            missing = "not found" in str(error)
            message = "Not found: Collection doesn't exist!" if missing else f"Wrong input: {error}"
            return self._answer(404 if missing else 400, {"status": {"error": message}})
        if fault is not None:
            time.sleep(fault.seconds)
            if fault.what == "lose":
                self.close_connection = True
                return None
        root = {"title": "qdrant - vector search engine", "version": self.owner.version}
        return self._answer(200, root if path == "/" else {"result": result, "status": "ok", "time": 0.0})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        if self.owner.constant is not None:
            status, data = 200, self.owner.constant
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        # A client that has lost patience is what a slow answer is for.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data)
