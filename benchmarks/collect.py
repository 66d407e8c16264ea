"""How fast are rows collected? `suture.collect` against the model's bare forward pass, and against what others do.

1. A model and a text are chosen: the two shipped ones, and a random GPT-2 of width 768 with 4 blocks.
2. The floor is the model's own transformer blocks up to the hookpoint and nothing else: no later block, no unembedding,
   no gradient, on batches that were tokenized before, the very batches that `collect` runs.
3. `output_hidden_states` is what people write: the text of each batch is tokenized, the whole model runs, the layer's
   states are kept, rounded and written to one file.
4. nnsight and TransformerLens, each in its own environment and process, do the same with a trace that stops at the
   layer, and with `run_with_cache` that does. What cannot be measured is named with the reason. All of them are given
   the text already cut into batches of like lengths, which `collect` finds itself.
5. Everyone is asked in turn, round after round, for the same rows; reported are medians of rows per second and of the
   ratio to the floor in the same round, in wall time, in processor time, and in that of the main thread: text is read,
   tokenized and aligned, and rows are written, in other threads, which cost no time where a second core is free.
6. The share of a training step spent waiting for its batch, on stores of shipped and of realistic size.

    python benchmarks/collect.py [--rounds 5] [--threads 1] [--quick] [--write]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import transformers
from peers import Unavailable, environment, last_words
from results import circumstances, table, write_section

from suture.activations.batches import batches
from suture.activations.collect import collect
from suture.activations.rows import group_by_length, plan_rows
from suture.activations.shards import write_store
from suture.activations.windows import State, windows
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.lm.corpus import open_corpus
from suture.lm.hookpoints import resolve
from suture.lm.hooks import record_at
from suture.lm.load import LanguageModel, load_model, locate
from suture.training.settings import Objective
from suture.training.start import data_statistics, new_dictionary
from suture.training.step import TrainingState

SHARED = Path(os.environ.get("SUTURE_SHARED", Path(__file__).parents[1].parent / "shared"))
TEXT = SHARED / "data" / "tinystories" / "train.txt"
BLOCK = 128
PEERS = {"nnsight": ("nnsight", "accelerate"), "transformer-lens": ("transformer-lens<4",)}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and how far to run it."""

    model: str
    layer: int
    """The output of this block is what is collected."""
    n_rows: int

    @property
    def hookpoint(self) -> str:
        return f"resid{self.layer}.post"


CASES = {
    "shipped 1 x 128": Case(model="tinystories-1l", layer=0, n_rows=65536),
    "shipped 2 x 128": Case(model="tinystories-2l", layer=0, n_rows=65536),
    "GPT-2, 4 x 768": Case(model="random", layer=2, n_rows=8192),
}
"""The case of the 2-layer model leaves its second block and its unembedding out; so does that of GPT-2."""

PEER_SCRIPT = """
import json, sys, time
import torch
name, folder, layer, ids_file, threads, out = sys.argv[1:]
torch.set_num_threads(int(threads))
layer = int(layer)
import transformers
with open(ids_file) as f:
    texts = json.load(f)
words = transformers.AutoTokenizer.from_pretrained(folder)
words.pad_token = words.pad_token or words.eos_token
def tokens(batch):
    ids = words(batch, padding=True, return_tensors="pt", add_special_tokens=False).input_ids
    return torch.cat([torch.full((len(batch), 1), words.bos_token_id), ids], 1)
if name == "nnsight":
    from nnsight import LanguageModel
    lm = LanguageModel(folder, device_map="cpu", dispatch=True, torch_dtype=torch.float32)
    def states(ids):
        with torch.no_grad(), lm.trace({"input_ids": ids, "attention_mask": torch.ones_like(ids)}) as tracer:
            kept = lm.transformer.h[layer].output.save()
            tracer.stop()
        return kept[0] if isinstance(kept, tuple) else kept
else:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    has = transformers.AutoConfig.from_pretrained(folder)
    # its own weights of the same shape: reading the model's would need the configuration that the hub has of it
    lm = HookedTransformer(HookedTransformerConfig(n_layers=has.num_hidden_layers, d_model=has.hidden_size,
        n_heads=has.num_attention_heads, d_head=has.hidden_size // has.num_attention_heads, act_fn="gelu_new",
        n_ctx=has.max_position_embeddings, d_vocab=has.vocab_size, normalization_type="LN", device="cpu"))
    at = f"blocks.{layer}.hook_resid_post"
    def states(ids):
        with torch.no_grad():
            return lm.run_with_cache(ids, names_filter=at, stop_at_layer=layer + 1)[1][at]
print(json.dumps("ready"), flush=True)
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    with open(out, "wb") as f:
        for batch in texts:
            ids = tokens(batch)
            x = states(ids)
            x = x.reshape(*ids.shape, -1)[:, 1:].bfloat16()
            f.write(x.contiguous().view(torch.int16).numpy().tobytes())
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""


def random_gpt2(folder: Path) -> Path:
    """A GPT-2 of GPT-2's width with few blocks and the shipped tokenizer."""
    words = transformers.AutoTokenizer.from_pretrained(locate("tinystories-1l"))
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_layer=4, n_embd=768, n_head=12, n_positions=512,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


Clock = tuple[float, ...]
"""Wall seconds, processor seconds, and of these the main thread's, where they are known."""


def timed(run: Callable[[], object]) -> Clock:
    """With the main thread's seconds: other threads read, tokenize, align and write, on another core if one is free."""
    wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - own


def same_batches(lm: LanguageModel, hookpoint: str, n_rows: int) -> list[torch.Tensor]:
    """The batches that a collection runs, BOS and padding included."""
    plan = plan_rows([(lm, hookpoint)], block=BLOCK, dtype="bfloat16", batch_tokens=None)
    n_bos, out = int(lm.bos is not None), []
    cut = windows(
        open_corpus(TEXT), [lm], block=BLOCK, n_tokens=plan.window_tokens, n_rows=n_rows, start=State.beginning(1)
    )
    for window in cut:
        lengths = {i: n_bos + len(piece.ids[0]) for i, piece in enumerate(window.pieces) if len(piece.ends)}
        for group in group_by_length(lengths, plan.batch_tokens):
            batch = torch.full((len(group), lengths[group[-1]]), lm.bos or 0)
            for place, piece in enumerate(group):
                ids = window.pieces[piece].ids[0]
                batch[place, n_bos : n_bos + len(ids)] = ids
            out.append(batch)
    return out


class Peer:
    """A library in its own process; it is given the batches ready made, and writes what it keeps."""

    def __init__(self, name: str, case: Case, folder: Path, ids: Path, threads: int) -> None:
        """Start it and wait until the model is loaded.

        Raises:
            Unavailable: it cannot be installed, or ended instead.
        """
        python = environment(name, PEERS[name])
        script = ids.with_name("peer.py")
        script.write_text(PEER_SCRIPT)
        self._errors = ids.with_name(f"{name}.err").open("w+")
        self._process = subprocess.Popen(
            [str(python), str(script), name, str(folder), str(case.layer), str(ids), str(threads), f"{ids}.rows"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self._answer()

    def __call__(self) -> Clock:
        assert self._process.stdin is not None
        print("run", file=self._process.stdin, flush=True)
        wall, cpu = self._answer()
        return wall, cpu

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("[", '"ready"')):  # libraries print, too
                return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        raise Unavailable(last_words(self._errors.read()))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()


def measure(label: str, case: Case, rounds: int, threads: int, peers: list[str]) -> tuple[list[list[str]], list[str]]:
    """Lines of the table for one case, and what could not be measured.  (2-5)"""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = random_gpt2(work / "model") if case.model == "random" else Path(locate(case.model))
        lm = load_model(str(folder), device="cpu")
        corpus, inputs = open_corpus(TEXT), same_batches(lm, case.hookpoint, case.n_rows)
        points = [resolve(lm.model, case.hookpoint)]
        words = transformers.AutoTokenizer.from_pretrained(folder)
        words.pad_token = words.pad_token or words.eos_token
        texts = [words.batch_decode(batch[:, 1:], skip_special_tokens=True) for batch in inputs]

        def floor() -> None:
            for batch in inputs:
                record_at(lm, batch, points)

        @torch.no_grad()
        def hidden_states() -> None:
            with (work / "rows.bin").open("wb") as stream:
                for text in texts:
                    ids = words(text, padding=True, return_tensors="pt", add_special_tokens=False).input_ids
                    batch = torch.cat([torch.full((len(text), 1), lm.bos or 0), ids], 1)
                    states = lm.model(batch, output_hidden_states=True, use_cache=False).hidden_states
                    kept = states[case.layer + 1][:, 1:].bfloat16().contiguous()
                    stream.write(kept.view(torch.int16).numpy().tobytes())

        def own() -> None:
            collect(
                work / "store", sources=[(lm, case.hookpoint)], corpus=corpus, n_rows=case.n_rows, block=BLOCK,
                overwrite=True,
            )  # fmt: skip

        runs: dict[str, Callable[[], Clock]] = {
            "bare forward to the layer": lambda: timed(floor),
            "suture.collect": lambda: timed(own),
            "output_hidden_states": lambda: timed(hidden_states),
        }
        ids, missing = work / "texts.json", []
        ids.write_text(json.dumps(texts))
        for name in peers:
            try:
                runs[name] = Peer(name, case, folder, ids, threads)
            except Unavailable as reason:
                missing.append(f"{name} on {label}: {reason}")
        found: dict[str, list[Clock]] = {name: [] for name in runs}
        try:
            for number in range(rounds + 1):
                for name, run in list(runs.items()):
                    try:
                        clock = run()
                    except Unavailable as reason:
                        missing.append(f"{name} on {label}: {reason}")
                        del runs[name], found[name]
                        continue
                    if number:  # the first round warms up
                        found[name].append(clock)
        finally:
            for run in runs.values():
                if isinstance(run, Peer):
                    run.close()
    base = found["bare forward to the layer"]
    lines = []
    for name, clocks in found.items():
        ratios = [
            f"{median(b[c] / a[c] for a, b in zip(clocks, base, strict=True)):.2f}" if len(clocks[0]) > c else "-"
            for c in range(3)
        ]
        lines.append([label, name, f"{case.n_rows / median(w for w, _ in clocks):,.0f}", *ratios])
    return lines, missing


def waiting(widths: tuple[int, int], n_features: int, n_steps: int, batch_size: int = 2048) -> str:
    """The share of training that its loop spends waiting for batches.  (6)"""
    with tempfile.TemporaryDirectory() as folder:
        rows = [torch.randn(8 * batch_size, width) for width in widths]
        store = write_store(Path(folder) / "s", rows, dtype="bfloat16")
        every = torch.arange(len(store))
        statistics = data_statistics(store, every, seed=0)
        design = Design(kind="crosscoder", n_features=n_features, sparsity=Sparsity(kind="topk", k=32))
        state = TrainingState(new_dictionary(store, design, statistics, seed=0), Objective(), statistics.variance)
        waited, started = 0.0, 0.0
        stream = batches(store, every, batch_size=batch_size, seed=0, n_steps=n_steps + 2)
        for step in range(n_steps + 2):
            if step == 2:  # the first steps allocate and read ahead
                waited, started = 0.0, time.perf_counter()
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            state.step(batch, k=32, learning_rate=1e-4, available=None)
        share = waited / (time.perf_counter() - started)
        stream.close()
    return f"{share:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--quick", action="store_true", help="few rows, one round, no peers")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    given = parser.parse_args()
    if not TEXT.is_file():
        sys.exit(f"the text is not at {TEXT}; set SUTURE_SHARED")
    torch.set_num_threads(given.threads)
    lines, missing = [], []
    for label in given.cases:
        case = CASES[label]
        if given.quick:
            case = Case(model=case.model, layer=case.layer, n_rows=case.n_rows // 8)
        some, absent = measure(
            label, case, 1 if given.quick else given.rounds, given.threads, [] if given.quick else given.peers
        )
        lines += some
        missing += absent
    n_steps = 3 if given.quick else 15
    shares = [f"2 x 128, 2,048 features: {waiting((128, 128), 2048, n_steps)}"]
    shares.append(f"2 x 1024, 16,384 features: {waiting((1024, 1024), 16384, n_steps)}")
    text = "\n\n".join(
        [
            "## Collecting",
            f"{circumstances(('torch', 'transformers'))} threads: {given.threads}. Writing included.",
            table(["model", "what", "rows/s", "of the floor (wall)", "(CPU time)", "(main thread)"], lines),
            *[f"Not measured: {line}." for line in missing],
            f"Share of a training step spent waiting for its batch: {'; '.join(shares)}.",
        ]
    )
    print(text)
    if given.write:
        write_section("collect", text)


if __name__ == "__main__":
    main()
