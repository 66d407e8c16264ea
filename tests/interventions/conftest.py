"""Two tiny random models of different depth and width with one tokenizer, and a dictionary whose rows are known."""

import copy

import pytest
import torch

from own_copy import own_copy
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.interventions.steer.effect import Effect
from suture.interventions.steer.effects import steered
from suture.lm.create import LMShape, new_lm, train_tokenizer
from suture.lm.load import LanguageModel

SENTENCES = (
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her red ball.",
    "Tom saw a big dog. The dog was happy and ran to the tree. Tom laughed and gave the dog a treat.",
    "One day the sun was very hot. The cat sat under the tree and slept until the rain came down.",
    "Mia wanted a blue cake for her birthday. Her mom said yes and they made the cake together in the kitchen.",
)
PROMPTS = tuple(s[:n] for s in SENTENCES for n in (17, 25, 38))
FEATURES = 24
PROMOTED = (" dog", " tree", " cake")
"""What features 0, 1 and 2 promote: their decoder rows are these tokens' unembedding rows."""


def language_model(shape: LMShape, seed: int, name: str, tokenizer=None) -> LanguageModel:
    tokenizer = tokenizer or train_tokenizer(SENTENCES, vocab_size=420)
    model = new_lm(shape, tokenizer, seed=seed).eval().requires_grad_(False)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        revision=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        n_layers=shape.n_layers,
        d_model=shape.width,
        vocab_size=len(tokenizer),
        context=shape.context,
        fingerprint=name,
        tokenizer_fingerprint="",
        bos=tokenizer.bos_token_id,
    )


@pytest.fixture(scope="session")
def models_loaded() -> list[LanguageModel]:
    """For fixtures that outlive a test; a test takes `models`."""
    return [
        language_model(LMShape(n_layers=1, width=32, n_heads=2, context=64), 0, "one"),
        language_model(LMShape(architecture="llama", n_layers=2, width=48, n_heads=2, context=64), 1, "two"),
    ]


@pytest.fixture
def models(models_loaded: list[LanguageModel]) -> list[LanguageModel]:
    """This test's own copies."""
    return [own_copy(lm) for lm in models_loaded]


def known_dictionary(models: list[LanguageModel], kind: str = "crosscoder", k: int = 8) -> Dictionary:
    """Features 0..2 point at the unembedding rows of `PROMOTED` in every model; the others anywhere."""
    spaces = [
        Space(
            model=lm.name,
            hookpoint=f"resid{lm.n_layers - 1}.post",
            width=lm.d_model,
            scale=scale,
            fingerprint=lm.fingerprint,
        )
        for lm, scale in zip(models, (2.0, 0.5), strict=False)
    ]
    dictionary = Dictionary(spaces, Design(kind=kind, n_features=FEATURES, sparsity=Sparsity(k=k)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(dictionary.W_dec.shape, generator=generator))
        dictionary.W_enc.copy_(torch.randn(dictionary.W_enc.shape, generator=generator))
        dictionary.b_enc.fill_(0.1)
        if kind != "pooled":
            for m, lm in enumerate(models):
                unembedding = lm.model.get_output_embeddings().weight
                for i, text in enumerate(PROMOTED):
                    (token,) = lm.tokenizer.encode(text, add_special_tokens=False)
                    row = unembedding[token]
                    dictionary.W_dec[i, dictionary.columns(m)] = row / row.norm() * spaces[m].scale
    return dictionary.requires_grad_(False)


@pytest.fixture(scope="session")
def dictionary_made(models_loaded: list[LanguageModel]) -> Dictionary:
    """For fixtures that outlive a test; a test takes `dictionary`."""
    return known_dictionary(models_loaded)


@pytest.fixture
def dictionary(dictionary_made: Dictionary) -> Dictionary:
    """This test's own copy."""
    return copy.deepcopy(dictionary_made)


def steer_many(*given, **how) -> list[Effect]:
    """The effects of some features, all at once."""
    return list(steered(*given, **how))


def steer_effect(dictionary: Dictionary, lms, feature: int, **how) -> Effect:
    """The effect of one feature."""
    return steer_many(dictionary, lms, [feature], **how)[0]
