"""What a search in a new process loads: it starts in a fraction of a second only if that is little."""

from __future__ import annotations

import subprocess
import sys

from helpers.colours import COLOURS
from helpers.fixtures import one_thread as one_thread
from helpers.indexing import CountingBackbone, fast_folder
from tsembed_search import Index
from tsembed_search.model.embedder import Embedder

# Each of them takes longer than the search itself.
_NEEDLESS = {
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "onnxruntime", "openvino"),
    *("qdrant_client", "pydantic", "PIL", "filelock", "rich", "typer", "email", "sqlite3", "subprocess", "asyncio"),
    *("importlib.metadata", "concurrent.futures", "tsembed_search.indexer.mending", "tsembed_search.trainer"),
    *("tsembed_search.model.embedder", "tsembed_search.model.loading", "tsembed_search.documents.document"),
}
_SEARCH = """
import sys
from types import SimpleNamespace
import numpy as np
from tsembed_search import Index
from tsembed_search.items import Embeddings

class Instant:
    info = SimpleNamespace(name="colours", fingerprint=sys.argv[2], calibration=None)

    def embed(self, items, role="document"):
        return Embeddings(np.eye(len(items), 64, dtype=np.float32), np.zeros((len(items), 0), np.float32))

with Index.open("index", store=sys.argv[1], embedder=Instant()) as index:
    assert len(index.search("red").hits) == 6
print(*sys.modules)
"""


def test_the_model_left_out_a_text_search_loads_little() -> None:
    """The model comes from outside here, so all that is loaded is the search's own."""
    backbone = CountingBackbone()
    with fast_folder() as folder:
        files = folder / "files"
        files.mkdir()
        for name in COLOURS:
            (files / f"{name}.txt").write_text(name)
        store = f"edge:{folder / 'indexes'}"
        with Index.create("index", store=store, embedder=Embedder(backbone)) as index:
            index.add(files)
        arguments = [sys.executable, "-c", _SEARCH, store, backbone.info.fingerprint]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stdout.split())
    assert "qdrant_edge" in loaded
    assert not loaded & _NEEDLESS
