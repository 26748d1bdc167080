"""What a server says of the cluster that it belongs to: how many nodes there are, and which of them are away.

A cluster changes collections, and takes nodes that failed out of use, by *consensus*: more than half of its nodes have
to agree. Without so many it answers reads, and is of no use to a run that writes; waiting helps only if nodes return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx

TIMEOUT: Final = 5.0
"""Seconds that the question may take: it is asked while something else goes wrong."""


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
        """Whether the cluster cannot agree on anything: half of its nodes are away, or none leads."""
        return 2 * len(self.away) >= self.nodes or not self.leader

    def words(self) -> str:
        """What is wrong with it, as the end of a sentence; empty when nothing is."""
        if self.away:
            verb = "is" if len(self.away) == 1 else "are"
            return f"{len(self.away)} of the cluster's {self.nodes} nodes {verb} away ({', '.join(self.away)})"
        return "" if self.leader else f"the cluster's {self.nodes} nodes have not agreed on a leader"

    def advice(self) -> str:
        """What to do about it."""
        if not self.away:
            return "Look at the nodes' logs."
        return f"Start {'it' if len(self.away) == 1 else 'them'} again, or mend the network between the nodes."


def asker(address: str, key: str | None) -> httpx.Client:
    """What to ask the server at `address` with."""
    import httpx

    headers = {"api-key": key} if key else {}
    return httpx.Client(base_url=address.rstrip("/"), headers=headers, timeout=TIMEOUT)


def ask(client: httpx.Client) -> Cluster | None:
    """The cluster that a server belongs to, or is alone; None when it does not say."""
    import httpx

    try:
        answer = client.get("/cluster")
        if answer.status_code == 404:
            return Cluster(1, ())
        return parse(answer.json()["result"]) if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError, ValueError, LookupError, TypeError, AttributeError):
        return None  # whatever ails it, the trouble that led to the question is what is told


def parse(result: Mapping[str, Any]) -> Cluster:
    """The answer to `GET /cluster`: an entry in `message_send_failures` goes away with the first success."""
    peers = result.get("peers") or {}
    if result.get("status") != "enabled" or len(peers) < 2:
        return Cluster(1, ())
    addresses = {str(peer["uri"]) for peer in peers.values()}
    away = sorted(_host(uri) for uri in result.get("message_send_failures") or {} if uri in addresses)
    return Cluster(len(peers), tuple(away), bool(result["raft_info"]["leader"]))


def _host(uri: str) -> str:
    return urlsplit(uri).netloc.rpartition("@")[2] or uri
