"""Write tests/formats/data: tiny dictionaries in other libraries' own files, those libraries' own codes beside them.

Each library runs in an environment of its own, so that suture's has none of them:

    python -m venv /tmp/peers/saelens && /tmp/peers/saelens/bin/pip install sae-lens
    /tmp/peers/saelens/bin/python scripts/make_format_fixtures.py saelens
    (sparsify: eai-sparsify; dictionary-learning: dictionary-learning; crosscoders: the fork
     science-of-finetuning/dictionary_learning, its folder on PYTHONPATH; layouts: torch and safetensors alone)

`layouts` writes sets whose libraries are not in any registry, to the layout that their publishers describe; the codes
are computed here from the published formulas, dense and one row at a time, sharing nothing with suture.

Every fixture is a folder with the library's files, and `expected.safetensors` in it: rows `x`, their `codes` and
`decoded`. d = 8 and F = 16, but for folders that end in `-square`, where F = d = 8 and a transposed matrix has the
right shape.
"""

# the libraries are in environments of their own
# pyright: reportMissingImports=false

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

DATA = Path(__file__).resolve().parent.parent / "tests" / "formats" / "data"
d, F, ROWS, K = 8, 16, 24, 3
LENS = {"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post", "context_size": 128, "prepend_bos": True}


def draw(seed: int) -> Callable[..., Tensor]:
    """Normal numbers, the same in every version of torch."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape, by=1.0: torch.randn(*shape, generator=generator) * by


def rows(*shape: int, seed: int = 99) -> Tensor:
    """What is encoded: not centred, so that a forgotten bias shows."""
    return draw(seed)(*shape) * 1.5 + 0.7


def keep(folder: Path, x: Tensor, codes: Tensor, decoded: Tensor) -> None:
    """Put what the library computes beside its files."""
    active = (codes > 0).float().sum(-1).mean()
    assert 0.5 < active < codes.shape[-1], f"{folder.name}: {active} features active say nothing"
    tensors = {"x": x, "codes": codes, "decoded": decoded}
    save_file({n: t.detach().float().contiguous() for n, t in tensors.items()}, folder / "expected.safetensors")
    print(f"{folder.relative_to(DATA)}: {active:.1f} of {codes.shape[-1]} features active")


def fresh(*parts: str) -> Path:
    """An empty folder."""
    folder = DATA.joinpath(*parts)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def fill(module: Any, seed: int, **exact: Tensor) -> None:
    """Random weights of every floating-point parameter; some given."""
    number = draw(seed)
    state = module.state_dict()
    for name, tensor in state.items():
        if name in exact:
            tensor.copy_(exact[name])
        elif tensor.is_floating_point() and tensor.ndim:
            tensor.copy_(number(*tensor.shape, by=0.5))
    module.load_state_dict(state)


# --- SAELens ----------------------------------------------------------------------------------------------------------


def saelens() -> None:
    """Every architecture that the library saves for use, its options, a training checkpoint, and old configurations."""
    from sae_lens import SAE
    from sae_lens.saes import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        GatedSAE,
        GatedSAEConfig,
        JumpReLUSAE,
        JumpReLUSAEConfig,
        StandardSAE,
        StandardSAEConfig,
        TopKSAE,
        TopKSAEConfig,
    )
    from sae_lens.saes.sae import SAEMetadata

    def one(name: str, kind: Any, config: Any, *, width: int = F, seed: int, **options: Any) -> Any:
        exact = options.pop("exact", {})
        cfg = config(d_in=d, d_sae=width, **options)
        cfg.metadata = SAEMetadata(**LENS)
        made = kind(cfg)
        fill(made, seed, **exact)
        folder = fresh("saelens", name)
        made.save_model(folder)
        x = rows(ROWS, d)
        keep(folder, x, made.encode(x), made.decode(made.encode(x)))
        return made

    threshold = draw(7)(F).abs()
    one("standard", StandardSAE, StandardSAEConfig, seed=1)
    one("standard-square", StandardSAE, StandardSAEConfig, width=d, seed=2)
    one("standard-no-b-dec", StandardSAE, StandardSAEConfig, seed=3, apply_b_dec_to_input=False)
    one("topk", TopKSAE, TopKSAEConfig, seed=4, k=K)
    one("topk-rescaled", TopKSAE, TopKSAEConfig, seed=5, k=K, rescale_acts_by_decoder_norm=True)
    one("jumprelu", JumpReLUSAE, JumpReLUSAEConfig, seed=6, exact={"threshold": threshold})
    one("gated", GatedSAE, GatedSAEConfig, seed=8)
    one("layer-norm", StandardSAE, StandardSAEConfig, seed=9, normalize_activations="layer_norm")

    cfg = BatchTopKTrainingSAEConfig(d_in=d, d_sae=F, k=K)
    cfg.metadata = SAEMetadata(**LENS)
    training = BatchTopKTrainingSAE(cfg)
    fill(training, 10)
    training.topk_threshold.fill_(1.25)
    checkpoint, inference = fresh("saelens", "batchtopk-checkpoint"), fresh("saelens", "batchtopk")
    training.save_model(checkpoint)
    training.save_inference_model(inference)
    used = SAE.load_from_disk(inference)
    x = rows(ROWS, d)
    for folder in (checkpoint, inference):  # what the library makes of the checkpoint is what it is in use
        keep(folder, x, used.encode(x), used.decode(used.encode(x)))

    for name, seed, more in (
        ("legacy-standard", 11, {"activation_fn_str": "relu"}),
        ("legacy-topk", 12, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}),
    ):
        made = one(name, StandardSAE, StandardSAEConfig, seed=seed)
        old = {"d_in": d, "d_sae": F, "dtype": "float32", "device": "cpu", "model_name": "gpt2"}
        old |= {"hook_point": LENS["hook_name"], "apply_b_dec_to_input": True, **more}
        folder = DATA / "saelens" / name
        (folder / "cfg.json").write_text(json.dumps(old))
        made = SAE.load_from_disk(folder)
        keep(folder, x, made.encode(x), made.decode(made.encode(x)))


# --- sparsify ---------------------------------------------------------------------------------------------------------


def sparsify() -> None:
    """A run of one hookpoint, and what suture cannot hold."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from sparsify import SparseCoder, SparseCoderConfig

    run = fresh("sparsify")
    (run / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-14m", "hookpoints": ["layers.3"]}))
    for name, options in (
        ("layers.3", {"num_latents": F}),
        ("layers.4", {"expansion_factor": 1}),  # F = d
        ("layers.5", {"num_latents": F, "transcode": True}),
        ("layers.6", {"num_latents": F, "skip_connection": True}),
        ("layers.7", {"num_latents": F, "activation": "groupmax", "k": 4}),
    ):
        made = SparseCoder(d, SparseCoderConfig(**{"k": K, **options}))
        fill(made, 20 + len(name) + int(name[-1]))
        made.save_to_disk(run / name)
        made = SparseCoder.load_from_disk(run / name)
        x = rows(ROWS, d)
        with torch.no_grad():
            values, indices, _ = made.encode(x)
            codes = torch.zeros(ROWS, made.num_latents).scatter(1, indices, values)
            decoded = made.decode(values, indices)
        keep(run / name, x, codes, decoded)


# --- dictionary_learning ----------------------------------------------------------------------------------------------


def dictionary_learning() -> None:
    """Every class of the library."""
    from dictionary_learning import dictionary as classes
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    threshold = draw(7)(F).abs()
    made: dict[str, Any] = {
        "AutoEncoder": classes.AutoEncoder(d, F),
        "AutoEncoder-square": classes.AutoEncoder(d, d),
        "AutoEncoderNew": classes.AutoEncoderNew(d, F),
        "GatedAutoEncoder": classes.GatedAutoEncoder(d, F),
        "JumpReluAutoEncoder": classes.JumpReluAutoEncoder(d, F),
        "AutoEncoderTopK": AutoEncoderTopK(d, F, K),
        "BatchTopKSAE": BatchTopKSAE(d, F, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(d, F, K, [4, 12]),
    }
    for number, (name, one) in enumerate(made.items()):
        fill(one, 40 + number, **({"threshold": threshold} if name.startswith("Jump") else {}))
        if "BatchTopK" in name:
            one.threshold.fill_(1.25)
        folder = fresh("dictionary_learning", name)
        torch.save(one.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": type(one).__name__, "activation_dim": d, "dict_size": one.dict_size, "layer": 3}
        trainer |= {"lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_3"}
        trainer |= {"k": K} if "TopK" in name else {}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"d_submodule": d, "io": "out"}}))
        x = rows(ROWS, d)
        codes = one.encode(x)
        keep(folder, x, codes, one.decode(codes))


def crosscoders() -> None:
    """The fork's crosscoders, with every code normalisation, with and without a normaliser of activations."""
    from dictionary_learning import BatchTopKCrossCoder, CrossCoder
    from dictionary_learning.dictionary import CodeNormalization

    number = draw(60)
    mean, std = number(2, d) + 0.5, number(2, d).abs() + 0.2
    std[1] *= 3
    plain = {"activation_mean": None, "activation_std": None}
    scaled = {"activation_mean": mean, "activation_std": std, "target_rms": 3.0}
    for seed, (name, kind, options) in enumerate(
        (
            ("relu", CrossCoder, plain),
            ("relu-scaled", CrossCoder, scaled),
            ("crosscoder", BatchTopKCrossCoder, plain | {"code_normalization": CodeNormalization.CROSSCODER}),
            ("sae", BatchTopKCrossCoder, scaled | {"code_normalization": CodeNormalization.SAE}),
            ("none", BatchTopKCrossCoder, scaled | {"code_normalization": CodeNormalization.NONE}),
            ("decoupled", BatchTopKCrossCoder, plain | {"code_normalization": CodeNormalization.DECOUPLED}),
            ("mixed", BatchTopKCrossCoder, plain | {"code_normalization": CodeNormalization.MIXED}),
            ("unset", BatchTopKCrossCoder, plain | {"code_normalization": CodeNormalization.CROSSCODER}),
        )
    ):
        batch = {"k": K} if kind is BatchTopKCrossCoder else {}
        made = kind(d, F, 2, **batch, **options)
        kept = {name: value for name, value in made.state_dict().items() if name.startswith("activation_")}
        fill(made, 70 + seed, **kept)
        if batch and name != "unset":
            made.threshold.fill_(1.5)
        folder = fresh("crosscoders", name)
        state = {f"_orig_mod.{n}": v for n, v in made.state_dict().items()} if name == "relu" else made.state_dict()
        torch.save(state, folder / "ae.pt")
        trainer = {"dict_class": kind.__name__, "activation_dim": d, "dict_size": F, "num_layers": 2, **batch}
        trainer |= {"lm_name": "base-chat", "layer": 13, "submodule_name": None}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        x = rows(ROWS, 2, d)
        with torch.no_grad():
            codes = made.encode(x)
            decoded = made.decode(codes)
            if name == "decoupled":
                codes = codes.sum(1)
        keep(folder, x.reshape(ROWS, -1), codes, decoded.reshape(ROWS, -1))


# --- published layouts ------------------------------------------------------------------------------------------------


def layouts() -> None:
    """Sets without a library in a registry, by their published formulas."""
    _gemma_scope()
    _gemma_crosscoder()
    _others()


def _jump(pre: Tensor, threshold: Tensor) -> Tensor:
    return pre.relu() * (pre > threshold)


def _gemma_scope() -> None:
    number, x = draw(80), rows(ROWS, d)
    w = {"w_enc": number(d, F, by=0.5), "b_enc": number(F), "w_dec": number(F, d), "b_dec": number(d)}
    w["threshold"] = number(F).abs()
    place = ("gemma", "gemma-scope-2-270m-pt")
    folder = fresh(*place, "resid_post", "layer_5_width_16k_l0_small")
    save_file(w, folder / "params.safetensors")
    config = {"hf_hook_point_in": "model.layers.5.output", "hf_hook_point_out": "model.layers.5.output", "width": F}
    config |= {"model_name": "gemma-v3-270m-pt", "architecture": "jump_relu", "l0": 10, "affine_connection": False}
    (folder / "config.json").write_text(json.dumps(config | {"type": "sae"}))
    codes = _jump(x @ w["w_enc"] + w["b_enc"], w["threshold"])
    keep(folder, x, codes, codes @ w["w_dec"] + w["b_dec"])
    bare = fresh(*place, "attn_out", "layer_7_width_16k_l0_small")  # no configuration: its name says it
    save_file(w, bare / "params.safetensors")
    keep(bare, x, codes, codes @ w["w_dec"] + w["b_dec"])
    for site, more in (("transcoder", {}), ("transcoder", {"affine_skip_connection": number(d, d)})):
        other = fresh(*place, site, f"layer_5_width_16k_l0_small{'_affine' if more else ''}")
        save_file(w | more, other / "params.safetensors")
    first = fresh("gemma", "gemma-scope-2b-pt-res", "layer_20", "width_16k", "average_l0_71")
    named = {{"w": "W", "b": "b", "t": "t"}[n[0]] + n[1:]: t.numpy() for n, t in w.items()}
    np.savez(first / "params.npz", **named)  # pyright: ignore[reportArgumentType]
    keep(first, x, codes, codes @ w["w_dec"] + w["b_dec"])


def _gemma_crosscoder() -> None:
    """Four layers of one model; the features of file l read layer l, and write it and those after it."""
    number, n = draw(81), 4
    folder = fresh("gemma", "gemma-scope-2-270m-pt", "crosscoder", "layer_5_9_12_15_width_16_l0_medium")
    x, own = rows(ROWS, n, d), [5, 4, 4, 3]
    codes, decoded = [], torch.zeros(ROWS, n, d)
    for layer, size in enumerate(own):
        w = {"w_enc": number(d, size, by=0.5), "b_enc": number(size), "threshold": number(size).abs() * 0.5}
        w |= {"w_dec": number(size, n, d), "b_dec": number(d)}
        w["w_dec"][:, :layer] = 0
        save_file(w, folder / f"params_layer_{layer}.safetensors")
        f = _jump(x[:, layer] @ w["w_enc"] + w["b_enc"], w["threshold"])
        for m in range(n):
            decoded[:, m] += f @ w["w_dec"][:, m]
        decoded[:, layer] += w["b_dec"]
        codes.append(f)
    config = {"model_name": "gemma-3-270m-pt", "architecture": "jump_relu", "type": "crosscoder", "l0": 40}
    (folder / "config.json").write_text(json.dumps(config))
    keep(folder, x.reshape(ROWS, -1), torch.cat(codes, 1), decoded.reshape(ROWS, -1))


def _others() -> None:
    number, x = draw(82), rows(ROWS, d)
    E, b, D, c = number(F, d, by=0.5), number(F), number(F, d), number(d)

    folder = fresh("llama_scope", "Llama3_1-8B-Base-L15R-8x")
    hyper = {"hook_point_in": "blocks.15.hook_resid_post", "hook_point_out": "blocks.15.hook_resid_post", "d_model": d}
    hyper |= {"d_sae": F, "expansion_factor": 2, "jump_relu_threshold": 0.4, "act_fn": "jumprelu", "dtype": "bfloat16"}
    hyper |= {"norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 6.25, "out": 6.25}}
    (folder / "hyperparams.json").write_text(json.dumps(hyper | {"model_name": "meta-llama/Llama-3.1-8B"}))
    (folder / "checkpoints").mkdir()
    half = {"encoder.weight": E, "encoder.bias": b, "decoder.weight": D.T, "decoder.bias": c}
    half = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in half.items()}
    save_file(half, folder / "checkpoints" / "final.safetensors")
    full, s = {name: tensor.float() for name, tensor in half.items()}, d**0.5 / 6.25
    codes = _jump(s * x @ full["encoder.weight"].T + full["encoder.bias"], torch.tensor(0.4))
    keep(folder, x, codes, (codes @ full["decoder.weight"].T + full["decoder.bias"]) / s)

    folder = fresh("qwen_scope", "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50")
    torch.save({"W_enc": E, "b_enc": b, "W_dec": D.T.contiguous(), "b_dec": c}, folder / "layer4.sae.pt")
    config = {"model_type": "topk_sae", "d_model": d, "d_sae": F, "k": K}
    (folder / "config.json").write_text(json.dumps(config))
    pre = x @ E.T + b
    codes = torch.stack([row * (row >= row.sort(descending=True).values[K - 1]) for row in pre]).relu()
    keep(folder, x, codes, codes @ D + c)

    folder = fresh("goodfire")
    state = {"encoder_linear.weight": E, "encoder_linear.bias": b}
    state |= {"decoder_linear.weight": D.T.contiguous(), "decoder_linear.bias": c}
    torch.save(state, folder / "Llama-3.3-70B-Instruct-SAE-l50.pt")
    codes = pre.relu()
    keep(folder, x, codes, codes @ D + c)

    folder = fresh("openai")
    state = {"pre_bias": c, "encoder.weight": E, "latent_bias": b, "decoder.weight": D.T.contiguous()}
    state |= {"stats_last_nonzero": torch.zeros(F), "activation": "ReLU", "activation_state_dict": {}}
    torch.save(state, folder / "relu.pt")
    torch.save(state | {"activation": "TopK", "activation_state_dict": {"k": K}}, folder / "topk.pt")
    codes = ((x - c) @ E.T + b).relu()
    keep(folder, x, codes, codes @ D + c)

    folder = fresh("kissane", "blocks.14.hook_resid_pre")
    W = {"W_enc": number(2, d, F, by=0.5), "W_dec": number(F, 2, d), "b_enc": number(F), "b_dec": number(2, d)}
    torch.save(W, folder / "cc_weights.pt")
    config = {"d_in": d, "dict_size": F, "model_name": "gemma-2-2b", "hook_point": "blocks.14.hook_resid_pre"}
    (folder / "cfg.json").write_text(json.dumps(config))
    both, scale = rows(ROWS, 2, d), torch.tensor([0.3, 0.2])
    codes = torch.stack([(scale[:, None] * row).flatten() @ W["W_enc"].flatten(0, 1) for row in both])
    codes = (codes + W["b_enc"]).relu()
    decoded = torch.einsum("nf,fmd->nmd", codes, W["W_dec"]) + W["b_dec"]
    keep(folder, both.reshape(ROWS, -1), codes, (decoded / scale[:, None]).reshape(ROWS, -1))


MAKERS = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary-learning": dictionary_learning,
    "crosscoders": crosscoders,
    "layouts": layouts,
}

if __name__ == "__main__":
    with torch.no_grad():
        MAKERS[sys.argv[1]]()
