"""Encodings are judged where the foreign bytes are, and a few odd characters make no text binary."""

from __future__ import annotations

import hashlib
import io
import marshal
import random
import sqlite3
import struct
import tarfile
import wave
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tsembed_search.documents.encoding import find_encoding, read_text
from tsembed_search.errors import LoadError

RUSSIAN = "Завтра на рынке продают свежую рыбу и хлеб."
JAPANESE = "明日は図書館で本を返します。"
OLD = {
    "cp1251": RUSSIAN, "koi8-r": RUSSIAN, "cp866": RUSSIAN, "shift_jis": "抹茶と緑茶の詰め合わせ", "euc_jp": JAPANESE,
    "gb18030": "港口的灯塔昨天修好了。", "big5": "港口的燈塔昨天修好了。", "euc_kr": "항구의 등대가 어제 수리되었다.",
    "cp1252": "Café crème, 3 €, “schön”", "cp1250": "Żółta łódź została naprawiona.", "cp1253": "Ο φάρος στο λιμάνι.",
    "cp1255": "המגדלור בנמל תוקן אתמול.", "cp1256": "تم إصلاح المنارة في الميناء أمس.",
    "cp874": "ประภาคารในท่าเรือได้รับการซ่อมแซม",
}  # fmt: skip
ASCII = "".join(f"line {n:05}, sealed {hashlib.sha512(str(n).encode()).hexdigest()}\r\n" for n in range(500)).encode()
TEXT = b"The harbour office keeps paper copies for ten years. " * 40

_PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)


def read(data: bytes) -> str:
    return "".join(read_text(io.BytesIO(data)))


class TestLateLetters:
    @pytest.mark.parametrize("encoding", OLD)
    def test_foreign_bytes_decide_wherever_they_are(self, encoding: str) -> None:
        words = OLD[encoding]
        data = words.encode(encoding)
        assert read(b"NOTE 1\r\n" + data) == f"NOTE 1\n{words}"
        assert read(ASCII + data).endswith(words)
        assert read(ASCII + b"7001," + data + b",12,\r\n" + ASCII).count(words) == 1

    def test_a_character_cut_by_the_sample_or_the_file(self) -> None:
        for before in (65_533, 65_534, 65_535):
            assert read(b"a" * before + JAPANESE.encode()).endswith(JAPANESE)
        assert read((JAPANESE * 3).encode()[:-1]).startswith(JAPANESE * 2)

    def test_lines_without_an_end(self) -> None:
        assert JAPANESE in read((JAPANESE + " ").encode("cp932") * 20_000)
        words = OLD["gb18030"]
        assert words in read(b"x" * 300_000 + (words + ", ").encode("gb18030") * 9_000)

    def test_bytes_that_strayed_into_utf8(self) -> None:
        assert read("Größe und Übung\n".encode() * 20 + b"caf\xe9 late\n").endswith("Übung\ncafé late\n")
        mixed = "Маяк в порту\n" * 5 + RUSSIAN
        assert read("Маяк в порту\n".encode() * 5 + RUSSIAN.encode("cp1251")) == mixed
        assert read(f"{JAPANESE}\n".encode() * 5 + JAPANESE.encode("cp932")).endswith(f"。\n{JAPANESE}")
        broken = (JAPANESE * 9).encode()
        assert read(broken[:-1] + broken).replace("\ufffd", "") == JAPANESE * 8 + JAPANESE[:-1] + JAPANESE * 9

    def test_good_utf8_is_judged_without_guessing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tsembed_search.documents.encoding.guess", lambda *_: pytest.fail("guessed"))
        assert find_encoding(io.BytesIO(ASCII)).name == "utf-8"
        assert read(ASCII + JAPANESE.encode()).endswith(JAPANESE)


SHOWN = {
    "end mark of DOS": (b"Ring the plumber.\r\n\x1a", "Ring the plumber."),
    "end marks to the end of a block": (b"Ring the plumber." + b"\x1a" * 111, "Ring the plumber."),
    "bell": (b"Wake up!\x07 The train leaves.", "Wake up! The train leaves."),
    "start of heading": (b"8=FIX.4.2\x019=65\x0158=coffee was accepted\x01", "8=FIX.4.2 9=65 58=coffee was accepted"),
    "separators": (b"name\x1ftown\x1enoah\x1foslo\x1eida\x1fbergen\x1e", "name town noah oslo ida bergen"),
    "start and end of text": (b"\x02hello there\x03", "hello there"),
    "one zero": (b"some\0words", "some words"),
    "names between zeros": (b"one.txt\0two.txt\0three.txt\0", "one.txt two.txt three.txt"),
    "zeros at the head": (b"\0" * 6000 + b"12:58 the pump started", "12:58 the pump started"),
    "more zeros than the sample": (b"\0" * 200_000 + b"12:58 the pump started", "12:58 the pump started"),
    "zeros in the middle": (b"before\n" + b"\0" * 5000 + b"after\n", "before after"),
    "zeros at the end": (b"the last line\n" + b"\0" * 5000, "the last line"),
    "colours": (b"\x1b[1;31mred\x1b[0m word \x1b]0;title\x07prompt", "red word prompt"),
    "pages": (b"page one\x0cpage two", "page one page two"),
    "struck over": (b"N\x08NA\x08AM\x08ME\x08E _\x08u_\x08n", "NAME un"),
    "delete": (b"hello\x7f there", "hello there"),
    "old letters between separators": ("über\x01größe\x01".encode("cp1252"), "über größe"),
    "seven bits": (JAPANESE.encode("iso2022_jp"), JAPANESE),
}


class TestControlCharacters:
    @pytest.mark.parametrize("kind", SHOWN)
    def test_a_text_with_some_is_a_text_without_them(self, kind: str) -> None:
        data, words = SHOWN[kind]
        text = read(data)
        assert " ".join(text.split()) == words
        assert all(one.isprintable() or one in "\n\t\f" for one in text)

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize(
        "words",
        [
            RUSSIAN, JAPANESE, "Το πλοίο φεύγει στις πέντε.", "船五点离开港口，天气很好。\n明天下雨。",
            "배는 다섯 시에 항구를 떠납니다.",
            "הספינה יוצאת מהנמל בחמש.", "تغادر السفينة الميناء في الخامسة.", "जहाज़ पाँच बजे बंदरगाह से निकलता है।",
            "Order 12: чай и хлеб, 300 руб.", "注文 12: お茶, 300円\nABC",
        ],
    )  # fmt: skip
    def test_utf16_without_a_mark(self, words: str, encoding: str) -> None:
        assert read(words.encode(encoding)) == words

    @settings(max_examples=60, deadline=None)
    @given(st.text(_PRINTABLE, min_size=2, max_size=60), st.sampled_from("\x07\x01\x1a"))
    def test_ascii_with_an_odd_character_is_no_utf16(self, words: str, odd: str) -> None:
        assert read(f"{words}{odd}{words}".encode()) == f"{words} {words}"

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 1 << 32), st.integers(200, 4000))
    def test_random_bytes_are_refused(self, seed: int, length: int) -> None:
        with pytest.raises(LoadError, match="binary"):
            read(random.Random(seed).randbytes(length))

    def test_binary_files_are_refused(self, tmp_path: Path) -> None:
        files = {
            "program": Path("/bin/sh").read_bytes()[:100_000], "tar": _tar(), "zip": _zip(), "sound": _sound(),
            "database": _database(tmp_path),
            "code": b"\xa7\r\r\n" + bytes(12) + marshal.dumps(compile("a = 'words ' * 9\n" * 9, "x", "exec")),
            "numbers": struct.pack("<1000i", *range(1000)),
            "real numbers": struct.pack("<500d", *(n / 7 for n in range(500))),
        }  # fmt: skip
        for format in ("PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP", "ICO"):
            picture = io.BytesIO()
            Image.new("RGB", (40, 30), "red").save(picture, format)
            files[format], files[f"half a {format}"] = picture.getvalue(), picture.getvalue()[:60]
        for kind, data in files.items():
            with pytest.raises(LoadError, match="binary"):
                pytest.fail(f"{kind} was read as {read(data)[:60]!r}")

    def test_nothing_but_zeros_is_called_that(self) -> None:
        with pytest.raises(LoadError, match="nothing but zero bytes"):
            read(b"\0" * 100_000)


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("notes.txt")
        entry.size = len(TEXT)
        archive.addfile(entry, io.BytesIO(TEXT))
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", TEXT)
    return file.getvalue()


def _database(folder: Path) -> bytes:
    connection = sqlite3.connect(folder / "notes.db")
    with connection:
        connection.execute("CREATE TABLE notes (words TEXT)")
        connection.executemany("INSERT INTO notes VALUES (?)", [(TEXT.decode(),)] * 50)
    connection.close()
    return (folder / "notes.db").read_bytes()


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0" * 8000)
    return file.getvalue()
