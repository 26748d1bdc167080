"""The process that decoders of tests are forked from serves on, whoever is killed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from helpers import warm_decoders
from tsembed_search.documents import decoders
from tsembed_search.model.backbones import mini_spec


@pytest.mark.parametrize("sent", [None, b"", b"{", b"{}"])
def test_one_that_is_killed_while_it_asks_stops_no_others(sent: bytes | None, tmp_path: Path) -> None:
    """`sent` of what it would send, which says that it has 2 bytes; None before it says anything."""
    if (address := os.environ.get(warm_decoders.ADDRESS)) is None:
        pytest.skip("decoders are not forked here")
    killed = socket.socket(socket.AF_UNIX)
    killed.connect(address)
    if sent is not None:
        with (tmp_path / "errors").open("wb") as errors:
            killed.sendmsg([b"%08d" % 2], warm_decoders._rights(*[errors.fileno()] * 3))
        killed.sendall(sent)
    killed.close()
    file = tmp_path / "file.txt"
    file.write_text("still here\n")
    decoder = decoders.Decoder(mini_spec.inputs(), memory=1 << 28, time_limit=60)
    try:
        assert [unit.text for unit in decoder.units(decoders.Request(str(file), ("text",)))] == ["still here"]
    finally:
        decoder.kill()
        decoder.close()
