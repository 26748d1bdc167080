"""Tasks made on the spot."""

from __future__ import annotations

from dataclasses import dataclass

from tsembed_search.items import Item
from tsembed_search.trainer.rows import Row


@dataclass
class Listed:
    """A task whose rows are a list."""

    name: str
    rows: list[Row]
    meta: str = ""
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Row:
        return self.rows[row]

    def identity(self, row: int) -> str:
        return self.rows[row].identity


def listed(name: str, identities: list[str], meta: str = "", weight: float = 1.0) -> Listed:
    """A row per identity: its name as the target, and a question about it."""
    rows = [Row(Item(f"{name} {one} number {at}"), Item(f"the {one}"), one) for at, one in enumerate(identities)]
    return Listed(name, rows, meta, weight)
