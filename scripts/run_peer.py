"""Let another library encode and decode rows with dictionaries that suture exported; run in that library's environment.

    PEER/bin/python scripts/run_peer.py saelens|sparsify|dictionary-learning|crosscoders FOLDER ROWS.safetensors OUT ..

Any number of dictionaries, three words for each. ROWS holds `x` [row, d], a crosscoder's [row, spaces, d]; OUT gets
`codes` and `decoded`. tests/formats/test_peers.py calls it where it finds the environments.

    PEER/bin/python scripts/run_peer.py saelens-evaluation MODEL FOLDER TOKENS.safetensors OUT.json

SAELens' own evaluation of a dictionary on `tokens` [text, token], in a GPT-Neo model that lies in the folder MODEL.
"""

# the libraries are in environments of their own
# pyright: reportMissingImports=false

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def saelens(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """SAELens' own loader, for use."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    codes = sae.encode(x)
    return codes, sae.decode(codes)


def sparsify(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """sparsify's own loader."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from sparsify import SparseCoder

    sae = SparseCoder.load_from_disk(folder)
    values, indices, _ = sae.encode(x)
    return torch.zeros(len(x), sae.num_latents).scatter(1, indices, values), sae.decode(values, indices)


def dictionary_learning(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """dictionary_learning's own loader; an AutoEncoder's decoder rows are left as long as they are."""
    from dictionary_learning.dictionary import AutoEncoder
    from dictionary_learning.utils import load_dictionary

    dictionary, config = load_dictionary(str(folder), device="cpu")
    if config["trainer"]["dict_class"] == "AutoEncoder":
        dictionary = AutoEncoder.from_pretrained(str(folder / "ae.pt"), normalize_decoder=False)
    codes = dictionary.encode(x)
    return codes, dictionary.decode(codes)


def crosscoders(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """The fork's own loader."""
    import dictionary_learning as library

    kind = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    dictionary = getattr(library, kind).from_pretrained(str(folder / "ae.pt"))
    codes = dictionary.encode(x)
    return codes, dictionary.decode(codes)


def saelens_evaluation(model: Path, folder: Path, tokens: Tensor) -> dict[str, dict[str, float]]:
    """SAELens' metrics, by group; the model as TransformerLens runs it."""
    from datasets import Dataset
    from sae_lens import SAE
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler
    from sae_lens.training.activations_store import ActivationsStore
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_neo_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    has = hf.config
    cfg = HookedTransformerConfig(
        d_model=has.hidden_size, d_head=has.hidden_size // has.num_heads, n_heads=has.num_heads,
        d_mlp=4 * has.hidden_size, n_layers=has.num_layers, n_ctx=has.max_position_embeddings,
        eps=has.layer_norm_epsilon, d_vocab=has.vocab_size, attn_types=has.attention_layers,
        act_fn=has.activation_function, use_attn_scale=False, use_local_attn=True, window_size=has.window_size,
        scale_attn_by_inverse_layer_idx=False, normalization_type="LN", original_architecture="GPTNeoForCausalLM",
        device="cpu",
    )  # fmt: skip
    lm = HookedTransformer(cfg, tokenizer=AutoTokenizer.from_pretrained(model))
    lm.load_and_process_state_dict(
        convert_neo_weights(hf, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False
    )
    sae = SAE.load_from_disk(folder).eval()
    n_texts, length = tokens.shape
    texts = Dataset.from_dict({"text": ["these tokens are not read"] * n_texts})
    store = ActivationsStore.from_sae(lm, sae, dataset=texts, context_size=length, streaming=False)
    store.get_batch_tokens = lambda *_args, **_more: tokens
    config = EvalConfig(
        batch_size_prompts=n_texts, n_eval_reconstruction_batches=1, compute_ce_loss=True,
        n_eval_sparsity_variance_batches=1, compute_sparsity_metrics=True, compute_variance_metrics=True,
    )  # fmt: skip
    metrics, _ = run_evals(sae, store, lm, ActivationScaler(), config, exclude_special_tokens=False)
    return metrics


PEERS = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary-learning": dictionary_learning,
    "crosscoders": crosscoders,
}

if __name__ == "__main__":
    library, *words = sys.argv[1:]
    if library == "saelens-evaluation":
        model, folder, rows, out = words
        found = saelens_evaluation(Path(model), Path(folder), load_file(rows)["tokens"])
        Path(out).write_text(json.dumps(found))
        sys.exit()
    for folder, rows, out in zip(words[::3], words[1::3], words[2::3], strict=True):
        with torch.no_grad():
            codes, decoded = PEERS[library](Path(folder), load_file(rows)["x"])
        save_file({"codes": codes.float().contiguous(), "decoded": decoded.float().contiguous()}, out)
