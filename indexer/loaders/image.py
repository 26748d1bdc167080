"""Picture files."""

from __future__ import annotations

from collections.abc import Iterator

from tsembed_search.images import open_image
from tsembed_search.indexer.loaders.unit import Loading, Unit


def load(loading: Loading) -> Iterator[Unit]:
    """The picture, or the first frame of an animation."""
    opened = open_image(loading.file, loading.inputs.image, memory=loading.memory)
    yield Unit("image", pixels=opened.pixels, width=opened.width, height=opened.height)
