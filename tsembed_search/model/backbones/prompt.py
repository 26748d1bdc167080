"""Turns an instruction, a picture's tokens and a text into one sequence of token ids."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from tsembed_search.errors import ModelError
from tsembed_search.model.backbones.weights import brief

_FIELD = re.compile(r"(\{instruction\}|\{image\}|\{text\})")


class Prompt:
    """A prompt template bound to a tokenizer.

    Special tokens count only where the template or a picture puts them: a user's text that spells one out is read as
    ordinary text, so that it can neither end the prompt nor pass for a picture.
    """

    def __init__(self, tokenizer_file: Path, template: str, lead: str, max_tokens: int) -> None:
        """`template` has `{instruction}`, `{image}` and `{text}`; `lead` precedes a text that no picture precedes.

        Raises `ModelError` when the tokenizer cannot be read or lacks a special token that the template needs.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(
                f"{tokenizer_file} cannot be read: {brief(error)}.", "Download the model again."
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._before, self._after = self._affixes()
        self._tokenizer.encode_special_tokens = True
        self._specials = {token.content: id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items()}
        longest_first = sorted(map(re.escape, self._specials), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})") if longest_first else re.compile("(?!)")
        self.largest_id = max(self._tokenizer.get_vocab().values(), default=0)
        self._parts = _FIELD.split(template)
        self._lead = lead
        self.max_tokens = max_tokens
        for token in re.findall(r"<[^<>\s]+>", template):
            if token not in self._specials:
                raise ModelError(f"{tokenizer_file} has no token {token}.", "It belongs to another kind of model.")

    def encode(self, instruction: str, image: str, text: str) -> list[int]:
        """Token ids. `image` is the model's own markup for a picture, or empty; `text` is cut to `max_tokens`."""
        text = self.cut(text.strip())
        users = {"{instruction}": _sentence(instruction), "{text}": text if image or not text else self._lead + text}
        ids: list[int] = []
        plain = ""  # the template's words and the user's that touch are one text, as in training
        for part in self._parts:
            if part in users:
                plain += users[part]
                continue
            for piece in self._special.split(image if part == "{image}" else part):
                if piece in self._specials:
                    ids += [*self._plain_ids(plain), self._specials[piece]]
                    plain = ""
                else:
                    plain += piece
        ids += self._plain_ids(plain)
        before = [] if ids[: len(self._before)] == self._before else self._before
        return before + ids + self._after

    def cut(self, text: str) -> str:
        """The text, or as much of its beginning as fits in `max_tokens`."""
        if len(text) <= self.max_tokens:  # a token is at least a byte, and most are several characters
            return text
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= self.max_tokens:
            return text
        return text[: encoding.offsets[self.max_tokens - 1][1]]

    def token(self, content: str) -> int:
        """The id of a special token. Raises `ModelError` when the tokenizer has none of that name."""
        if content not in self._specials:
            raise ModelError(f"The tokenizer has no token {content}.", "Download the model again.")
        return self._specials[content]

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids) if text else []

    def _affixes(self) -> tuple[list[int], list[int]]:
        """Special tokens that the tokenizer itself puts before and after every sequence."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a").ids
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return list(whole[:start]), list(whole[start + len(bare) :])


def _sentence(instruction: str) -> str:
    """The instruction with a full stop, unless it ends in punctuation already."""
    instruction = instruction.strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += "."
    return instruction
