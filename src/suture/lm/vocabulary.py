"""The text of each vocabulary entry, and the texts that several models' vocabularies have in common.

1. A token's text is what decoding adds when the token follows a plain letter, so that a leading space survives in
   byte-level and sentencepiece vocabularies alike.
2. Special tokens and fragments of a character (which decode to U+FFFD) have no text of their own.
3. Two models are compared on the texts that both have; a model's log-probability of a text is that of all its tokens
   with this text together (a sentencepiece vocabulary may spell a letter twice, once as a byte).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.lm.load import LanguageModel

FRAGMENT = "\ufffd"


def token_texts(lm: LanguageModel) -> list[str | None]:
    """The text of every output of the model [vocab]; None for special tokens, fragments of characters and padding."""
    tokenizer, backend = lm.tokenizer, lm.tokenizer.backend_tokenizer
    anchor = tokenizer.encode("a", add_special_tokens=False)
    before = backend.decode(anchor, skip_special_tokens=False)
    n_known = min(len(tokenizer), lm.vocab_size)
    # the backend itself: transformers looks into every list for what might be no Python number
    decoded = backend.decode_batch([[*anchor, i] for i in range(n_known)], skip_special_tokens=False)
    special = set(tokenizer.all_special_ids)
    texts: list[str | None] = [None] * lm.vocab_size
    for i, text in enumerate(decoded):
        added = text[len(before) :]
        if i not in special and text.startswith(before) and added and FRAGMENT not in added:
            texts[i] = added
    return texts


def displayed(lm: LanguageModel, texts: Sequence[str | None], token_id: int) -> str:
    """A string to show for a vocabulary entry: its text, `<0xB2>` for a part of a character, or the tokenizer's own."""
    text = texts[token_id]
    if text is not None:
        return text
    spelled = lm.tokenizer.convert_ids_to_tokens(token_id) if token_id < len(lm.tokenizer) else None
    if not isinstance(spelled, str):
        return f"<{token_id}>"
    is_part = token_id not in lm.tokenizer.all_special_ids and _spells_bytes(lm) and set(spelled) <= _BYTE_OF.keys()
    return "".join(f"<0x{_BYTE_OF[letter]:02X}>" for letter in spelled) if is_part else spelled


def _spells_bytes(lm: LanguageModel) -> bool:
    """Whether the tokenizer writes every byte as a letter of its own, as GPT-2's does."""
    return "ByteLevel" in repr(lm.tokenizer.backend_tokenizer.decoder)


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones are themselves, the others the letters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_letters()


def shared_texts(vocabularies: Sequence[Sequence[str | None]]) -> list[str]:
    """The texts that every vocabulary has, sorted.

    >>> shared_texts([["a", None, " b"], [" b", "c", "a", "a"]])
    [' b', 'a']
    """
    common: set[str | None] = set(vocabularies[0])
    for other in vocabularies[1:]:
        common &= set(other)
    return sorted(text for text in common if text is not None)


def text_index(texts: Sequence[str | None], chosen: Sequence[str]) -> tuple[Int[Tensor, "used"], Int[Tensor, "used"]]:
    """The token ids whose text is among `chosen`, and for each the place of its text in `chosen`."""
    place = {text: i for i, text in enumerate(chosen)}
    pairs = [(i, place[text]) for i, text in enumerate(texts) if text is not None and text in place]
    ids = torch.tensor([i for i, _ in pairs], dtype=torch.int64)
    return ids, torch.tensor([p for _, p in pairs], dtype=torch.int64)


def text_log_probs(
    log_probs: Float[Tensor, "row vocab"], index: tuple[Int[Tensor, "used"], Int[Tensor, "used"]], n_texts: int
) -> Float[Tensor, "row text"]:
    """Log-probability (nats) that the next token has each text: a log-sum-exp over the tokens that have it."""
    ids, place = (i.to(log_probs.device) for i in index)
    used = log_probs[:, ids]
    if len(ids) == n_texts:  # no text has two tokens: a reordering will do
        return used[:, torch.argsort(place)]
    where = place.expand(used.shape[0], -1)
    top = used.new_full((used.shape[0], n_texts), -torch.inf).scatter_reduce(1, where, used, "amax")
    total = torch.zeros_like(top).scatter_add(1, where, torch.exp(used - top.gather(1, where)))
    return top + torch.log(total)
