"""What a file's or folder's name says, if anything: words that a person chose, not numbers that a camera counts."""

from __future__ import annotations

import re
from typing import Final

_DULL: Final = frozenset(
    """
    image images img pic pics picture pictures photo photos foto fotos bild bilder scan scans screenshot screenshots
    screen shot untitled unnamed unbenannt file files new copy kopie copia final draft temp tmp test misc various other
    others stuff folder dcim camera roll mobile phone whatsapp telegram signal download downloads upload uploads export
    exports document documents desktop figure fig page thumb thumbnail thumbs large small medium edited original
    originals data assets media static public src png jpg jpeg webp gif video the and for with from dsc dscn dscf img
    pxl mvi gopr gopro dji pano hdr burst vid snap capture untitledfolder
    january february march april may june july august september october november december
    jan feb mar apr jun jul aug sep sept oct nov dec
""".split()
)
_CAMERA: Final = re.compile(
    r"(?:IMG|DSCN?|DSCF|PXL|MVI|GOPR|GH|DJI|PANO|VID|P|SAM|CIMG|HPIM|KIF|R|L)[_-]?\d{3,}|WhatsApp", re.IGNORECASE
)
_HEX: Final = re.compile(r"[0-9a-f]{8,}|[0-9a-f-]{32,}", re.IGNORECASE)
_LONGEST: Final = 80


def telling_name(stem: str) -> str:
    """The words of a name (`Holiday_in-Rome (2)` is `Holiday in Rome`), or "" when they tell nothing."""
    name = _HEX.sub(" ", _CAMERA.sub(" ", stem))
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # camelCase
    words = [word for word in re.split(r"[\W\d_]+", name) if word]
    while words and (words[-1].lower() in _DULL or len(words[-1]) == 1):
        words.pop()
    while words and words[0].lower() in _DULL:
        words.pop(0)
    text = " ".join(words)
    return text if telling_words(text) and len(text) <= _LONGEST else ""


def telling_words(text: str) -> bool:
    """Whether a text has a word that may say what something is: of a script without blanks, any two letters."""
    for word in re.findall(r"[^\W\d_]+", text):
        if word.lower() not in _DULL and (len(word) >= 3 or (len(word) == 2 and not word.isascii())):
            return True
    return False
