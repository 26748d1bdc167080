"""The connection to a Qdrant server: it tries again, and says in words what went wrong.

Everything the store asks of a server can be asked twice without harm, so whatever may be a passing trouble (a dropped
connection, a time-out, an overloaded or restarting server) is tried again with growing pauses. A cluster that has lost
half of its nodes does not mend by itself: that is said sooner, with their names. Whoever waits is told for what.

A cluster changes collections, and takes nodes that failed out of use, by *consensus*: more than half of its nodes have
to agree. Without so many it answers reads, and is of no use to a run that writes; waiting helps only if nodes return.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from tsembed_search.errors import StoreError, UsageError
from tsembed_search.wording import shown

_log = logging.getLogger(__name__)

T = TypeVar("T")

MEMORY: Final = ":memory:"
REQUEST_SECONDS: Final = 60
TIMEOUT: Final = 5.0
"""Seconds that a question about the cluster may take: it is asked while something else goes wrong."""

_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
_LONGEST: Final = 200  # characters of a server's message
_BETWEEN_LOOKS: Final = 1.0  # seconds between two questions whether a stuck cluster is whole again
_NO_SENSE: Final = (ValueError, TypeError, AttributeError, LookupError, AssertionError, RecursionError)
_AGAIN: Final = "What was acknowledged is kept; the same command goes on from there."


@dataclass(frozen=True)
class Patience:
    """The time to go on trying, in seconds: pauses start at `first`, double up to `longest`, and end after `total`.

    A cluster of which half is away gets only `stuck`. After `told` people hear what is waited for, and again after
    every `again`.
    """

    total: float
    first: float = 0.25
    longest: float = 8.0
    stuck: float = 30.0
    told: float = 4.0
    again: float = 15.0


READING: Final = Patience(total=10.0)
WRITING: Final = Patience(total=120.0)
"""A person waits for a search; an index run had better sit out a server's restart. Half of a cluster seldom restarts at
once, and while it is away most writes hang for half a minute before the server answers."""


@dataclass(frozen=True)
class Cluster:
    """A cluster, as one of its nodes sees it. `nodes` is 1 for a server that stands alone.

    `away`: host and port of the nodes that it cannot reach, sorted. `leader`: whether the nodes have agreed on one.
    """

    nodes: int
    away: tuple[str, ...]
    leader: bool = True

    @property
    def stuck(self) -> bool:
        """True when the cluster cannot agree on anything: half of its nodes are away, or none leads."""
        return 2 * len(self.away) >= self.nodes or not self.leader

    def words(self) -> str:
        """Return the end of a sentence that says which nodes are away; empty when all is well."""
        if self.away:
            verb = "is" if len(self.away) == 1 else "are"
            return f"{len(self.away)} of the cluster's {self.nodes} nodes {verb} away ({', '.join(self.away)})"
        return "" if self.leader else f"the cluster's {self.nodes} nodes have not agreed on a leader"

    def advice(self) -> str:
        """Return a sentence that says what to do about it."""
        if not self.away:
            return "Look at the nodes' logs."
        return f"Start {'it' if len(self.away) == 1 else 'them'} again, or mend the network between the nodes."


def parse(result: Mapping[str, Any]) -> Cluster:
    """Read the answer to `GET /cluster`: an entry in `message_send_failures` goes away with the first success."""
    peers = result.get("peers") or {}
    if result.get("status") != "enabled" or len(peers) < 2:
        return Cluster(1, ())
    addresses = {str(peer["uri"]) for peer in peers.values()}
    failing = [uri for uri in result.get("message_send_failures") or {} if uri in addresses]
    away = sorted(_without_user(urlsplit(uri)) or uri for uri in failing)
    return Cluster(len(peers), tuple(away), bool(result["raft_info"]["leader"]))


class Connection:
    """A client of the server at `url`, or of an in-memory engine. Safe to use from several threads.

    The API key comes from `QDRANT_API_KEY` and appears in no message. Raises `UsageError` when `url` is none.
    """

    def __init__(self, url: str, reading: Patience = READING, writing: Patience = WRITING) -> None:
        from qdrant_client import QdrantClient

        self.reading = reading
        self.writing = writing
        self.has_key = False
        self._alone = False  # known to be no cluster
        self._told = -math.inf  # when people heard last that something is waited for
        self._telling = threading.Lock()
        self._given_up = threading.Event()
        self.in_memory = url == MEMORY
        if self.in_memory:
            self.place = "the in-memory engine"
            self.client = QdrantClient(MEMORY)
            return
        from ssl import PROTOCOL_TLS_CLIENT, SSLContext

        import httpx

        key = _key()
        self.has_key = key is not None
        address = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(address)
            self.place = f"{parts.scheme}://{_without_user(parts)}"
            headers = {"api-key": key} if key else {}
            # Reading the certificates takes longer than most requests: once for both clients, and never for http,
            # where a context that trusts nobody stands in their place.
            trusted = httpx.create_ssl_context() if parts.scheme == "https" else SSLContext(PROTOCOL_TLS_CLIENT)
            self._asker = httpx.Client(base_url=address.rstrip("/"), headers=headers, timeout=TIMEOUT, verify=trusted)
            self.client = QdrantClient(
                url=address,
                api_key=key,
                https=None,
                timeout=REQUEST_SECONDS,
                check_compatibility=False,
                verify=trusted,
            )
        except (ValueError, httpx.InvalidURL) as error:
            told = url.rpartition("@")[2]
            raise UsageError(
                f"{told!r} is not the address of a server.", "Write it like http://localhost:6333: {store}."
            ) from error

    def ask(self, doing: str, call: Callable[[], T], patience: Patience | None = None) -> T:
        """Return `call()`, tried again while the trouble may pass. Raises `StoreError`: "Cannot `doing` ... ".

        `patience` defaults to that for reading; a call that is given one is a write, and is watched while it lasts.
        """
        allowed = patience or self.reading
        began = time.monotonic()
        pause = allowed.first
        while True:
            try:
                with self._watched(patience, began):
                    result = call()
                if pause > allowed.first:  # not at the first try
                    self._tell_the_end(began)
                return result
            except Exception as error:
                wait = _pause(error, pause)
                if wait is None:
                    raise self._in_words(error, doing) from error
                nodes = self._cluster(error)
                stuck = nodes is not None and (nodes.stuck or "consensus" in str(error))
                ends = began + (min(allowed.stuck, allowed.total) if stuck else allowed.total)
                self._tell(_trouble(error, nodes), allowed, began, ends, at_once=stuck)
                if not (self._waited(wait, ends) and self._whole_again(nodes, ends)):
                    raise self._in_words(error, doing, nodes) from error
                pause = min(2 * pause, allowed.longest)

    def _waited(self, seconds: float, ends: float) -> bool:
        """Waits, unless that would last too long; False also when another thread has given up."""
        return time.monotonic() + seconds <= ends and not self._given_up.wait(seconds)

    def _whole_again(self, nodes: Cluster | None, ends: float) -> bool:
        """Waits for a stuck cluster instead of asking it for what would hang. False: it is stuck still."""
        while nodes is not None and nodes.stuck:
            if not self._waited(_BETWEEN_LOOKS, ends):
                return False
            nodes = self._look()
        return True

    def _cluster(self, error: Exception | None = None) -> Cluster | None:
        """The cluster that the server belongs to, where it may have to do with an error."""
        import httpx

        source = getattr(error, "source", None)
        if self._alone or self.in_memory or isinstance(source, httpx.ConnectError):
            return None
        nodes = self._look()
        self._alone = nodes is not None and nodes.nodes == 1
        return None if self._alone else nodes

    def _look(self) -> Cluster | None:
        """Ask for the cluster that the server belongs to, or is alone; None when it does not say."""
        import httpx

        try:
            answer = self._asker.get("/cluster")
            if answer.status_code == 404:
                return Cluster(1, ())
            return parse(answer.json()["result"]) if answer.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError, *_NO_SENSE):
            return None  # whatever ails it, the trouble that led to the question is what is told

    @contextmanager
    def _watched(self, patience: Patience | None, began: float) -> Iterator[None]:
        """Tells during a long write that the cluster is stuck: the server itself says so only after half a minute."""
        if patience is None or self._alone or self.in_memory:
            yield
            return

        def look() -> None:
            nodes = self._cluster()
            if nodes is not None and nodes.stuck:
                self._tell(nodes.words(), patience, began, began + patience.stuck, at_once=True)

        timer = threading.Timer(patience.told, look)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self, trouble: str, allowed: Patience, began: float, ends: float, *, at_once: bool) -> None:
        """Tells people what is waited for, not too often."""
        now = time.monotonic()
        left = round(ends - now)
        with self._telling:
            if left < 1 or now - self._told < allowed.again or not (at_once or now - began >= allowed.told):
                return
            self._told = now
        _log.warning("%s", shown(f"Waiting for {self.place}: {trouble}. Giving up in {left} s."))

    def _tell_the_end(self, began: float) -> None:
        with self._telling:
            if self._told < began:
                return
            self._told = -math.inf
        _log.warning("%s", shown(f"{self.place} answers again."))

    def give_up(self) -> None:
        """Make calls in other threads stop trying again."""
        self._given_up.set()

    def resume(self) -> None:
        """End `give_up`."""
        self._given_up.clear()

    def close(self) -> None:
        """End the connection. The in-memory engine stays, with what is in it."""
        if not self.in_memory:
            self._asker.close()
            self.client.close()

    def _in_words(self, error: Exception, doing: str, nodes: Cluster | None = None) -> Exception:
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        cannot = f"Cannot {doing} on {self.place}"
        if nodes is not None and (trouble := nodes.words()):
            need = "A cluster needs more than half of its nodes to change anything. " if nodes.stuck else ""
            return StoreError(f"{cannot}: {trouble}.", f"{need}{nodes.advice()} {_AGAIN}")
        if isinstance(error, UnexpectedResponse):
            return self._refused(cannot, error.status_code or 0, server_message(error))
        if isinstance(error, ResponseHandlingException):
            return _unanswered(cannot, error.source)
        # The client takes some answers of other servers to pieces before it notices.
        if isinstance(error, (QdrantException, *_NO_SENSE)):
            what = str(error) or "the answer makes no sense"
            return StoreError(f"{cannot}: {what}.", "Is that the address of a Qdrant server ({store})?")
        return error

    def _refused(self, cannot: str, status: int, message: str) -> StoreError:
        if status in (401, 403):
            what = "its API key is not accepted" if self.has_key else "the server wants an API key"
            return StoreError(f"{cannot}: {what}.", "Set QDRANT_API_KEY to a key that may read and write.")
        if status == 404 and "doesn't exist" not in message:
            return StoreError(f"{cannot}: this is not a Qdrant server.", "Check the address ({store}), and its port.")
        if status in _PASSING:
            return StoreError(
                f"{cannot}: the server keeps answering {status} ({message}).", f"Look at its log. {_AGAIN}"
            )
        return StoreError(f"{cannot}: {message}.", "The server's log may say more.")


def server_message(error: Any) -> str:
    """Return the server's words in an error reply."""
    try:
        message = str(json.loads(error.content)["status"]["error"]).rstrip(".")
        return message if len(message) <= _LONGEST else message[:_LONGEST].rsplit(" ", 1)[0] + " …"
    except (ValueError, LookupError, TypeError, RecursionError):
        return f"status {error.status_code} {error.reason_phrase}".strip()


def _without_user(parts: SplitResult) -> str:
    """Host and port, without the user name and password that a URL may carry."""
    return parts.netloc.rpartition("@")[2]


def _pause(error: Exception, pause: float) -> float | None:
    """Seconds to wait before the next try, or None when another try would not help."""
    import httpx
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return max(float(error.retry_after_s), pause)
    passing = isinstance(error, UnexpectedResponse) and error.status_code in _PASSING
    if isinstance(error, ResponseHandlingException):
        passing = isinstance(error.source, httpx.TransportError) and not isinstance(
            error.source, httpx.UnsupportedProtocol | httpx.LocalProtocolError
        )
    # Half of it by chance: parallel uploads must not come back all at once.
    return pause * random.uniform(0.5, 1.0) if passing else None


def _trouble(error: Exception, nodes: Cluster | None) -> str:
    """A few words for the trouble that is waited out."""
    import httpx

    if nodes is not None and (words := nodes.words()):
        return words
    source = getattr(error, "source", None)
    if isinstance(source, httpx.TimeoutException):
        return f"it has not answered within {REQUEST_SECONDS} seconds"
    if source is not None:
        return "it cannot be reached" if isinstance(source, httpx.ConnectError) else "the connection broke"
    status = getattr(error, "status_code", None)
    return f"it answers {status} ({server_message(error)})" if status else "it has too much to do"


def _unanswered(cannot: str, source: Exception) -> StoreError:
    import httpx

    if isinstance(source, httpx.TimeoutException):
        return StoreError(f"{cannot}: no answer within {REQUEST_SECONDS} seconds.", _AGAIN)
    if isinstance(source, httpx.ConnectError):
        return StoreError(
            f"{cannot}: it cannot be reached ({source}).", "Is the server running? Check its address: {store}."
        )
    if isinstance(source, httpx.TransportError):
        return StoreError(f"{cannot}: the connection broke ({source}).", _AGAIN)
    return StoreError(
        f"{cannot}: the answer is not a Qdrant server's ({type(source).__name__}).", "Check its address: {store}."
    )


def _key() -> str | None:
    """The API key from the environment. Raises `UsageError` for one that no request can carry."""
    key = os.environ.get("QDRANT_API_KEY", "").strip()
    if not all(" " <= character <= "~" for character in key):
        raise UsageError(
            "QDRANT_API_KEY holds characters that no key has.", "Copy it again: it is one line of plain letters."
        )
    return key or None
