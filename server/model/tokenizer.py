"""Texts to tokens and back, by a model's own tokenizer.

Its definition decides, not what was saved beside it: truncation, padding and BPE dropout are off. Back to text there
are two ways: the tokenizer's decoder, from ids alone, and the offsets that it gives for a text, which keep what a
decoder cannot know, such as case that was folded or spaces that an added token swallowed.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from tokenizers.decoders import DecodeStream

from polysem.proto.errors import FailedPrecondition, InvalidArgument

_PROBE = "text"
_DAMAGE = "\N{REPLACEMENT CHARACTER}"
_OWN = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # bytes that byte-level BPE spells as themselves
_OTHERS = (byte for byte in range(256) if byte not in _OWN)  # the rest, as characters from U+0100 on
_BYTES = {chr(byte): byte for byte in _OWN} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}


class Pieces(NamedTuple):
    """A text as tokens: ids, and the text of each; joined they are the text."""

    ids: list[int]
    texts: list[str]


class Tokenizer:
    """A model's own tokenizer. A special token's name in a text is ordinary text.

    n_rows     tokens that the model has embeddings of; None: as many as are needed

    bos_id     what a text may begin with, or None
    adds_bos   the tokenizer's own call begins texts with it
    n_tokens   one more than the largest id

    Raises FailedPrecondition for a tokenizer that runs in Python only, that knows no tokens, or that can give a token
    which the model has no row for.
    """

    def __init__(self, hugging_face_tokenizer: Any, n_rows: int | None = None) -> None:
        backend = getattr(hugging_face_tokenizer, "backend_tokenizer", None)
        if backend is None:
            kind = type(hugging_face_tokenizer).__name__
            raise FailedPrecondition(f"it runs in Python only ({kind}); give one that has a tokenizer.json")
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
        self._added = {id_: token.content for id_, token in backend.get_added_tokens_decoder().items()}
        self.bos_id, self.adds_bos = self._beginning(hugging_face_tokenizer)
        backend.encode_special_tokens = True  # that call has unset it
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        if not any(self.encode([_PROBE])):
            raise FailedPrecondition("it knows no tokens")
        if n_rows is not None:
            self._check_rows(vocabulary, n_rows)
            vocabulary = {token: id_ for token, id_ in vocabulary.items() if id_ < n_rows}
            self.bos_id = None if self.bos_id is None or self.bos_id >= n_rows else self.bos_id
        self.n_tokens: int = 1 + max(vocabulary.values())

    def _beginning(self, hugging_face_tokenizer: Any) -> tuple[int | None, bool]:
        """The one token that the tokenizer's own call puts before a text; else its BOS, which it does not add."""
        own, plain = hugging_face_tokenizer(_PROBE)["input_ids"], self.encode([_PROBE])[0]
        before = own[: next((i for i in range(len(own)) if own[i : i + len(plain)] == plain), 0)]
        if len(before) == 1:
            return before[0], True
        return hugging_face_tokenizer.bos_token_id, False

    def _check_rows(self, vocabulary: dict[str, int], n_rows: int) -> None:
        special = {id_ for id_, token in self._backend.get_added_tokens_decoder().items() if token.special}
        for token, id_ in sorted(vocabulary.items(), key=lambda item: -item[1]):
            if id_ < n_rows:
                return
            if id_ not in special and self._occurs(token, id_):
                raise FailedPrecondition(
                    f"it has {len(vocabulary)} tokens, {token!r} with the id {id_}, and the model rows for {n_rows}"
                )

    def _occurs(self, token: str, id_: int) -> bool:
        """Whether a text can have it. BPE makes a token of its own characters by merges, or never."""
        if id_ in self._added or type(self._backend.model).__name__ != "BPE":
            return True
        return any(found.id == id_ for found in self._backend.model.tokenize(token))

    @cached_property
    def sha256(self) -> str:
        """Return the sha256 of the tokenizer's whole definition, in hexadecimal."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without BOS. Raises InvalidArgument for a text that has no tokens in it."""
        return [encoding.ids for encoding in self._encoded(texts)]

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """Each text as tokens, without BOS, by the tokenizer's offsets. Raises as `encode`."""
        return [
            Pieces(encoding.ids, _split(text, encoding.offsets))
            for text, encoding in zip(texts, self._encoded(texts), strict=True)
        ]

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        try:
            return list(self._backend.encode_batch(list(texts), add_special_tokens=False))
        except Exception as error:  # its library knows no other
            if len(texts) > 1:
                return [encoding for text in texts for encoding in self._encoded([text])]
            raise InvalidArgument(
                f"the model's tokenizer cannot read the text {_beginning(texts[0])!r}: {error}", "text"
            ) from error

    def texts(self, ids: Sequence[int], continues: bool = False) -> list[str]:
        """The text of each token, by the tokenizer's decoder; joined they are what it makes of all.

        A character split over several tokens stands at its last one, the others are empty. Bytes that are no UTF-8
        become U+FFFD. An added token shows its name.

        continues  other tokens came before: a leading space is part of the text
        """
        texts: list[str] = []
        for is_added, run in groupby(ids, lambda id_: id_ in self._added):
            if is_added:
                texts += [self._added[id_] for id_ in run]
            else:
                texts += self._decoded(list(run), continues)
                continues = True
        return texts

    def texts_of_runs(self, runs: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each run of tokens, as it stands behind other text; bytes that are no whole character
        become U+FFFD. Cost: some µs a run, on all cores."""
        before = len(self._backend.decode(self._anchor, skip_special_tokens=False))
        whole = self._backend.decode_batch([[*self._anchor, *run] for run in runs], skip_special_tokens=False)
        return [text[before:] for text in whole]

    def alone(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, as it stands within a text, with its leading space.

        A token that is less than a character is shown as its bytes, <0xE6><0x97>; one without a text by its name in the
        vocabulary.
        """
        return [self._alone(id_) for id_ in ids]

    def _alone(self, id_: int) -> str:
        (text,) = self.texts([id_], continues=True)
        if text and _DAMAGE not in text:
            return text
        name = str(self._backend.id_to_token(id_) or f"<{id_}>")
        if not text or re.fullmatch(r"<0x[0-9A-F]{2}>", name) or not all(character in _BYTES for character in name):
            return name
        return "".join(f"<0x{_BYTES[character]:02X}>" for character in name)

    def named(self, names: Sequence[str]) -> list[int | None]:
        """The tokens of these names in the vocabulary, None where it has no such one.

        Byte-level BPE spells bytes as characters (`Ġthe`); the text itself (` the`) is a name as well.
        """
        return [self._ids.get(name, self._spelt.get(_bytes_of(name))) for name in names]

    @cached_property
    def _ids(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocabulary

    @cached_property
    def _spelt(self) -> dict[bytes, int]:
        return {_bytes_of(name): id_ for name, id_ in self._ids.items() if all(one in _BYTES for one in name)}

    def _decoded(self, ids: Sequence[int], continues: bool) -> list[str]:
        """Decode ids that are no added tokens."""
        stream = DecodeStream(skip_special_tokens=False)
        if continues:
            for id_ in self._anchor:
                stream.step(self._backend, id_)
        texts: list[str] = []
        waiting: list[int] = []  # tokens of which the decoder has given nothing yet
        for id_ in ids:
            waiting.append(id_)
            if text := stream.step(self._backend, id_):
                texts += self._shared(waiting, text, continues or bool(texts))
                waiting = []
        if waiting:  # the rest of a character does not come
            texts += self._shared(waiting, self._text(waiting, continues or bool(texts)), continues or bool(texts))
        return texts

    def _shared(self, ids: Sequence[int], text: str, continues: bool) -> list[str]:
        """The text of several tokens: of each, what it makes firm. What grows no longer is one character still open."""
        if len(ids) == 1:
            return [text]
        firm = [0]
        so_far = [self._text(ids[:i], continues) for i in range(1, len(ids) + 1)]
        for one, after in pairwise(so_far):
            is_open = one == after and one.endswith("\ufffd")
            firm.append(max(_n_shared(one, text) - is_open, firm[-1]))
        return [text[begin:end] for begin, end in pairwise([*firm, len(text)])]

    def _text(self, ids: Sequence[int], continues: bool) -> str:
        before = self._anchor if continues else []
        whole, anchor = (self._backend.decode([*before, *more], skip_special_tokens=False) for more in (ids, []))
        return str(whole[len(anchor) :])

    @cached_property
    def _anchor(self) -> list[int]:
        """Any token with a text of its own, for what follows it."""
        return next((ids[-1:] for ids in self.encode(["a", _PROBE]) if ids and self._backend.decode(ids[-1:])), [])


def _bytes_of(name: str) -> bytes:
    """The bytes that byte-level BPE spells by a name; of characters that it does not use, their own."""
    return b"".join(bytes([_BYTES[one]]) if one in _BYTES else one.encode("utf-8", "surrogatepass") for one in name)


def _beginning(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _n_shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _split(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """The text of each token: from the end of the one before, so what no token covers stands with the next.

    Tokens that share a character have offsets that overlap; it stands at the last of them.
    """
    return [text[begin:end] for begin, end in _bounds(len(text), offsets)]


def _bounds(length: int, offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin = 0
    for i, (_, end) in enumerate(offsets):
        last = i + 1 == len(offsets)
        end = length if last else max(begin, min(end, offsets[i + 1][0]))
        yield begin, end
        begin = end
