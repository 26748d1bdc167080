"""Talking to a Qdrant server: connecting, trying again, and saying in words what went wrong.

Everything the store asks of a server can be asked twice without harm, so whatever may be a passing trouble (a dropped
connection, a time-out, an overloaded or restarting server) is tried again with growing pauses.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from tsembed_search.errors import StoreError, UsageError

T = TypeVar("T")

MEMORY: Final = ":memory:"
REQUEST_SECONDS: Final = 60
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long to go on trying, in seconds: pauses start at `first`, double up to `longest`, and end after `total`."""

    total: float
    first: float = 0.25
    longest: float = 8.0


READING = Patience(total=10.0)
WRITING = Patience(total=120.0)
"""A person waits for a search; an index run had better sit out a server's restart."""


class Connection:
    """A client of the server at `url`, or of an in-memory engine. Safe to use from several threads.

    The API key comes from `QDRANT_API_KEY` and appears in no message. Raises `UsageError` when `url` is none.
    """

    def __init__(self, url: str, reading: Patience = READING, writing: Patience = WRITING) -> None:
        from qdrant_client import QdrantClient

        self.reading = reading
        self.writing = writing
        self.has_key = False
        self._given_up = threading.Event()
        self.in_memory = url == MEMORY
        if self.in_memory:
            self.place = "the in-memory engine"
            self.client = QdrantClient(MEMORY)
            return
        address = url if "://" in url else f"http://{url}"
        parts = _checked(address, url)
        # Without user name and password, which a URL may carry.
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        key = os.environ.get("QDRANT_API_KEY", "").strip() or None
        if key is not None and not key.isascii():
            raise UsageError("QDRANT_API_KEY is no key: keys are ASCII.", "Copy it again.")
        self.has_key = key is not None
        try:
            self.client = QdrantClient(
                url=address, api_key=key, https=None, timeout=REQUEST_SECONDS, check_compatibility=False
            )
        except ValueError as error:  # the client's own parser is stricter
            raise _no_address(url) from error

    def ask(self, doing: str, call: Callable[[], T], patience: Patience | None = None) -> T:
        """`call()`, tried again while the trouble may pass. Raises `StoreError`: "Cannot `doing` ... ".

        `patience` defaults to that for reading.
        """
        allowed = patience or self.reading
        deadline = time.monotonic() + allowed.total
        pause = allowed.first
        while True:
            try:
                return call()
            except Exception as error:
                wait = _pause(error, pause)
                if wait is None or time.monotonic() + wait > deadline or self._given_up.wait(wait):
                    raise self._in_words(error, doing) from error
                pause = min(2 * pause, allowed.longest)

    def give_up(self) -> None:
        """Makes calls in other threads stop trying again."""
        self._given_up.set()

    def resume(self) -> None:
        """Ends `give_up`."""
        self._given_up.clear()

    def close(self) -> None:
        self.client.close()

    def _in_words(self, error: Exception, doing: str) -> Exception:
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        cannot = f"Cannot {doing} on {self.place}"
        if isinstance(error, UnexpectedResponse):
            return self._refused(cannot, error.status_code or 0, server_message(error))
        if isinstance(error, ResponseHandlingException):
            return _unanswered(cannot, error.source, self.place)
        if isinstance(error, QdrantException | ValueError | TypeError):
            return StoreError(f"{cannot}: {error}.", "Is that the address of a Qdrant server (--url)?")
        return error

    def _refused(self, cannot: str, status: int, message: str) -> StoreError:
        if status in (401, 403):
            what = "its API key is not accepted" if self.has_key else "the server wants an API key"
            return StoreError(f"{cannot}: {what}.", "Set QDRANT_API_KEY to a key that may read and write.")
        if status == 404 and "doesn't exist" not in message:
            return StoreError(f"{cannot}: this is not a Qdrant server.", "Check the address (--url), and its port.")
        if status in _PASSING:
            return StoreError(
                f"{cannot}: the server keeps answering {status} ({message}).",
                "Look at its log. What was acknowledged is kept; the same command goes on from there.",
            )
        return StoreError(f"{cannot}: {message}.", "The server's log may say more.")


def server_message(error: Any) -> str:
    """What the server said in an error reply."""
    try:
        return str(json.loads(error.content)["status"]["error"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return f"status {error.status_code} {error.reason_phrase}".strip()


def _checked(address: str, url: str) -> Any:
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise _no_address(url)
    return parts


def _no_address(url: str) -> UsageError:
    shown = url.rpartition("@")[2]
    return UsageError(f"{shown!r} is not the address of a server.", "Write --url http://localhost:6333, for example.")


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


def _unanswered(cannot: str, source: Exception, place: str) -> StoreError:
    import httpx

    if isinstance(source, httpx.TimeoutException):
        return StoreError(
            f"{cannot}: no answer within {REQUEST_SECONDS} seconds.",
            "What was acknowledged is kept; the same command goes on from there.",
        )
    if isinstance(source, httpx.ConnectError):
        return StoreError(f"{cannot}: it cannot be reached ({source}).", "Is the server running? Check --url.")
    if isinstance(source, httpx.TransportError):
        return StoreError(
            f"{cannot}: the connection broke ({source}).",
            "What was acknowledged is kept; the same command goes on from there.",
        )
    return StoreError(f"{cannot}: the answer is not a Qdrant server's ({type(source).__name__}).", "Check --url.")
