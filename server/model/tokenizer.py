"""Texts to tokens and back: byte-level BPE, in which a character may be split over several tokens."""

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, cast


class Tokenizer:
    """A model's own tokenizer. A special token's name in a text is ordinary text."""

    def __init__(self, hugging_face_tokenizer: Any) -> None:
        self._tokenizer = hugging_face_tokenizer
        self._backend = hugging_face_tokenizer.backend_tokenizer
        self._backend.encode_special_tokens = True
        self._bytes = {character: byte for byte, character in _byte_alphabet()}
        self._special = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        self.bos_id: int | None = hugging_face_tokenizer.bos_token_id
        self.n_tokens: int = len(hugging_face_tokenizer)

    @property
    def sha256(self) -> str:
        """Of the tokenizer's whole definition, in hexadecimal."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without BOS."""
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; joined they are the whole text.

        A character split over several tokens stands at its last one, the others are empty. Bytes that are no UTF-8
        become U+FFFD.
        """
        names = cast("list[str]", self._tokenizer.convert_ids_to_tokens(list(ids)))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = [name if name in self._special else decoder.decode(self._token_bytes(name)) for name in names]
        if texts:
            texts[-1] += decoder.decode(b"", final=True)
        return texts

    def _token_bytes(self, name: str) -> bytes:
        try:
            return bytes(self._bytes[character] for character in name)
        except KeyError:  # not a byte-level token
            return name.encode()


def _byte_alphabet() -> Iterator[tuple[int, str]]:
    """GPT-2's printable stand-in for each byte: itself where printable, else the next character from 256 on."""
    stand_in = 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            yield byte, chr(byte)
        else:
            yield byte, chr(stand_in)
            stand_in += 1
