"""Chooses the drawings of `drawings/` by chance: `python examples/make_drawings.py MINI_MMEB OPENCLIPART`.

MINI_MMEB is the folder of `python examples/mini/data.py --public`, and OPENCLIPART the folder of the drawings' SVG
files, as Debian's `openclipart-svg` has them. The drawings are of the test split, so that no model of ours has seen
them in training. Of those of things, with titles in words that the model knows, forty are drawn with one seed, and none
was exchanged. Prints the rows that belong into `LICENSES.md`.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from pathlib import Path

from tokenizers import Tokenizer

from tsembed_search.model.backbones import mini_spec

HERE = Path(__file__).parent
COUNT = 40
THINGS = {
    *("animals", "buildings", "education", "food", "household", "office", "people", "plants", "recreation"),
    *("science", "tools", "transportation"),
}


def words(row: dict[str, str]) -> str:
    """What a row asks for."""
    return row["qry_text"].removeprefix(row["qry_inst"]).strip()


def main(data: Path, svgs: Path) -> None:
    """Replaces `drawings/` and `drawings.jsonl`."""
    lines = (data / "test" / "clipart_t2i.jsonl").read_text("utf-8").splitlines()
    vocabulary = Tokenizer.from_file(str(mini_spec.verified("tokenizer"))).get_vocab()
    rows = [
        row
        for row in map(json.loads, lines)
        if Path(row["tgt_img_path"][0]).parts[2] in THINGS and set(words(row).lower().split()) <= set(vocabulary)
    ]
    shutil.rmtree(HERE / "drawings", ignore_errors=True)
    (HERE / "drawings").mkdir()
    queries = []
    for row in sorted(random.Random(0).sample(rows, COUNT), key=lambda row: Path(row["tgt_img_path"][0]).name):
        picture = Path(row["tgt_img_path"][0])
        shutil.copy(data / picture, HERE / "drawings")
        queries.append(json.dumps({"id": picture.name, "text": words(row)}))
        source = Path(*picture.parts[2:]).with_suffix(".svg")
        said = (svgs / source).read_text("utf-8", "replace")
        assert "http://web.resource.org/cc/PublicDomain" in said, source
        title, author = re.findall(r"<dc:title[^>]*>\s*(.*?)\s*</dc:title>", said, re.DOTALL)[:2]
        print(f"| `drawings/{picture.name}` | Open Clip Art `{source}` | {title} | {author} | public domain |")
    (HERE / "drawings.jsonl").write_text("\n".join(queries) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
