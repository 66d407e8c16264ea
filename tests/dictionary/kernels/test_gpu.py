"""The Triton kernels agree with torch, in Triton's interpreter or on a GPU, and every one compiles for the GPUs meant.

The interpreter must be chosen before Triton is imported, so those checks run in a process of their own.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from suture.activations.batches import Batch
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity, SparsityKind
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.kernels import gpu
from suture.training.settings import Objective
from suture.training.step import TrainingState

DTYPES = (torch.float32, torch.bfloat16)
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not gpu.INTERPRETED else "cpu")
RUNS_HERE = gpu.available(DEVICE)
few = settings(max_examples=8, deadline=None, derandomize=True)

needs_triton = pytest.mark.skipif(gpu.triton is None, reason="triton is not installed")


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=drawn(seed)).to(dtype).to(DEVICE)


def integers(high: int, n: int, *, seed: int = 0) -> Tensor:
    return torch.randint(high, (n,), generator=drawn(seed), dtype=torch.int32).to(DEVICE)


def begins_of(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(torch.int32).to(DEVICE)


def assert_best(pre: Tensor, chosen: Tensor) -> None:
    """The chosen entries are as many different ones, and their values the k largest."""
    n_rows, k = chosen.shape
    assert chosen.dtype == torch.int32
    assert all(len(set(row)) == k for row in chosen.tolist())
    values = pre.gather(1, chosen.long()).sort(dim=1, descending=True).values
    assert torch.equal(values, pre.topk(k).values), (n_rows, pre.shape[1], k)


class TestAgainstTorch:
    """What a kernel computes is what torch computes."""

    __test__ = RUNS_HERE

    @few
    @given(st.integers(1, 700), st.integers(1, 60), st.sampled_from(DTYPES), st.integers(0, 99))
    def test_top_k_of_any_shape(self, n_features: int, k: int, dtype: torch.dtype, seed: int) -> None:
        pre = normal(3, n_features, seed=seed, dtype=dtype)
        assert_best(pre, gpu.top_k(pre, min(k, n_features)))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("n_features", "k"), [(16_384, 72), (73_728, 108), (5001, 40), (64, 64), (1, 1)])
    def test_top_k_of_the_shapes_of_trainings(self, n_features: int, k: int, dtype: torch.dtype) -> None:
        pre = normal(2, n_features, dtype=dtype)
        assert_best(pre, gpu.top_k(pre, k))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_top_k_with_ties_everywhere(self, dtype: torch.dtype) -> None:
        few_values = integers(3, 4 * 999).view(4, 999).to(dtype) - 1
        few_values[1] = 0
        assert_best(few_values, gpu.top_k(few_values, 50))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_top_k_of_values_that_are_negative_or_infinite(self, dtype: torch.dtype) -> None:
        pre = -normal(4, 500, dtype=dtype).abs()
        pre[0, 100:] = -torch.inf
        pre[1, ::7] = torch.inf
        pre[2] = -torch.inf
        pre[3, :5] = torch.finfo(dtype).tiny
        assert_best(pre, gpu.top_k(pre, 90))
        assert_best(pre, gpu.top_k(pre, 110))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("sign", [1, -1])
    def test_top_k_takes_nan_after_every_number(self, dtype: torch.dtype, sign: int) -> None:
        pre = torch.full((2, 300), -torch.inf, dtype=dtype, device=DEVICE)
        pre[:, ::3] = torch.tensor(torch.nan).copysign(torch.tensor(float(sign)))
        chosen = gpu.top_k(pre, 200)
        assert not pre.gather(1, chosen.long()).isnan().any()
        assert len(set(gpu.top_k(pre, 250)[0].tolist())) == 250

    def test_top_k_of_a_view_reads_the_view(self) -> None:
        whole = normal(6, 400)
        for view in (whole[1::2, 30:300], whole.t()[:3]):
            assert_best(view, gpu.top_k(view, 5))

    def test_top_k_of_more_than_the_registers_hold(self) -> None:
        pre = normal(2, 40_000)
        assert gpu.grouping_of(40_000, 9000) is None
        assert_best(pre, gpu.top_k(pre, 9000))

    @few
    @given(st.integers(1, 9000), st.sampled_from(DTYPES), st.floats(-2, 3), st.integers(0, 99))
    def test_above_is_nonzero(self, n_features: int, dtype: torch.dtype, height: float, seed: int) -> None:
        pre = normal(3, n_features, seed=seed, dtype=dtype)
        pre[1] = -torch.inf
        pre[2, ::5] = torch.nan
        bar = normal(n_features, seed=seed + 1) * 0.1 + height
        crow, feature = gpu.above(pre, bar)
        mask = pre > bar.to(dtype)
        assert torch.equal(feature.long(), mask.nonzero()[:, 1])
        assert torch.equal(crow.diff().long(), mask.sum(1))

    def test_above_of_no_rows_or_of_nothing_above(self) -> None:
        for pre in (normal(0, 7), -normal(4, 7).abs()):
            crow, feature = gpu.above(pre, torch.zeros(7, device=DEVICE))
            assert feature.numel() == 0
            assert torch.equal(crow, torch.zeros(pre.shape[0] + 1, dtype=torch.int32, device=DEVICE))

    @few
    @given(
        st.lists(st.one_of(st.integers(0, 20), st.sampled_from([512, 513, 1100])), min_size=1, max_size=5),
        st.sampled_from([1, 3, 16, 70, 520]),
        st.sampled_from(DTYPES),
        st.integers(0, 99),
    )
    def test_gather_sum_is_a_weighted_embedding_bag(
        self, sizes: list[int], width: int, dtype: torch.dtype, seed: int
    ) -> None:
        n = sum(sizes)
        index, weight, table = integers(23, n, seed=seed), normal(n, seed=seed), normal(23, width, seed=1, dtype=dtype)
        begins = begins_of(sizes)
        wanted = functional.embedding_bag(
            index, table.double(), begins, mode="sum", per_sample_weights=weight.double(), include_last_offset=True
        )
        found = gpu.gather_sum(begins, index, weight, table)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)
        assert torch.equal(gpu.gather_sum(begins, index, weight, table), found)
        if max(sizes) <= gpu.LONGEST_BAG:
            assert torch.equal(gpu.gather_sum(begins, index, weight, table, longest=max(sizes)), found)

    def test_gather_sum_of_one_very_long_bag_among_empty_ones(self) -> None:
        index, weight, table = integers(50, 20_000), normal(20_000), normal(50, 40)
        found = gpu.gather_sum(begins_of([0, 0, 20_000, 0]), index, weight, table)
        counts = torch.zeros(50, dtype=torch.float64, device=DEVICE).index_add_(0, index, weight.double())
        assert torch.equal(found[[0, 1, 3]], torch.zeros(3, 40, device=DEVICE))
        torch.testing.assert_close(found[2].double(), counts @ table.double(), atol=1e-3, rtol=1e-5)

    @few
    @given(
        st.integers(0, 60),
        st.sampled_from([1, 5, 48, 128, 300, 520, 1100]),
        st.sampled_from(DTYPES),
        st.sampled_from(DTYPES),
        st.integers(0, 99),
    )
    def test_sampled_product_is_the_dot_product_at_every_pair(
        self, n: int, width: int, left_dtype: torch.dtype, right_dtype: torch.dtype, seed: int
    ) -> None:
        row, feature = integers(7, n, seed=seed), integers(31, n, seed=seed + 1)
        left, right = normal(7, width, seed=2, dtype=left_dtype), normal(31, width, seed=3, dtype=right_dtype)
        found = gpu.sampled_product(row, feature, left, right)
        wanted = (left.double()[row.long()] * right.double()[feature.long()]).sum(1)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)

    def test_a_bag_of_no_entries_never_reads_the_table(self) -> None:
        table = torch.full((3, 8), torch.nan, device=DEVICE)
        none = integers(1, 0)
        found = gpu.gather_sum(begins_of([0, 0]), none, normal(0), table)
        assert torch.equal(found, torch.zeros(2, 8, device=DEVICE))

    @pytest.mark.parametrize("kind", ["topk", "batchtopk"])
    def test_training_steps_are_those_of_torch(self, kind: SparsityKind, monkeypatch: pytest.MonkeyPatch) -> None:
        """AuxK at work, through `TrainingState`, with the kernels and without them."""
        own = self.trained(kind)
        monkeypatch.setattr(gpu, "handles", lambda *_: False)
        for name, reference in self.trained(kind).items():
            torch.testing.assert_close(own[name], reference, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")

    @staticmethod
    def trained(kind: SparsityKind) -> dict[str, Tensor]:
        spaces = [Space(model=m, hookpoint="x", width=6) for m in "ab"]
        dictionary = Dictionary(spaces, Design(n_features=24, sparsity=Sparsity(kind=kind, k=4))).to(DEVICE)
        with torch.no_grad():
            dictionary.W_dec.copy_(functional.normalize(normal(24, 12, seed=1), dim=1))
            dictionary.W_enc.copy_(dictionary.W_dec)
            dictionary.threshold.fill_(0.5)
        state = TrainingState(dictionary, Objective(dead_after=10, k_aux=2), torch.ones(2))
        state.silent[[1, 5, 7, 11]] = 99
        for seed in (2,):
            batch = Batch(activations=normal(8, 12, seed=seed), model=None)
            state.step(batch, k=4.0, learning_rate=1e-3, available=None)
        return {name: tensor.detach().clone() for name, tensor in state.per_feature().items()}

    def test_double_precision_is_left_to_torch(self) -> None:
        assert gpu.handles(normal(2), normal(2, dtype=torch.bfloat16))
        assert not gpu.handles(normal(2), normal(2, dtype=torch.float64))


@needs_triton
@pytest.mark.skipif(gpu.INTERPRETED, reason="this is the interpreter")
def test_the_kernels_agree_with_torch_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "TestAgainstTorch"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 25


def test_without_triton_the_module_loads_and_says_that_nothing_is_available() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from suture.dictionary.kernels import gpu as t\n"
        "assert not t.available(torch.device('cuda')) and not t.handles(torch.zeros(1))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_available_on_a_cpu() -> None:
    assert gpu.available(torch.device("cpu")) is gpu.INTERPRETED


@pytest.mark.parametrize("k", [1, 16, 72, 108, 700])
@pytest.mark.parametrize("n_features", [1, 100, 16_384, 73_728, 131_072, 1_000_003])
def test_a_grouping_holds_every_entry_and_every_member(n_features: int, k: int) -> None:
    grouping = gpu.grouping_of(n_features, min(k, n_features))
    if grouping is None:
        most_groups = gpu.LARGEST_BLOCK // gpu.RUN
        assert k * (n_features / most_groups + gpu.RUN) > gpu.LARGEST_BLOCK
        return
    assert grouping.n_groups * grouping.depth * gpu.RUN >= n_features
    assert min(k, n_features) * grouping.depth * gpu.RUN <= grouping.n_members
    assert min(k, n_features) <= grouping.n_groups
    assert max(grouping.n_groups, grouping.n_members) <= gpu.LARGEST_BLOCK


# --- compiling without a GPU ----------------------------------------------------------------------------------------

KERNELS = (
    "_best_groups", "_best_members", "_count_above", "_write_above", "_sum_bags", "_sum_pieces", "_join_pieces",
    "_products",
)  # fmt: skip
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Recorder:
    """Stands for a kernel and keeps what it is launched with instead of launching it."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.launches = kernel, []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(size >= 1 for size in grid)
        return lambda *values, **options: self.launches.append((values, options))


def recorded(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, width: int, n_features: int, k: int) -> list[Any]:
    """Every launch that a training of this shape makes, by kernel: (kernel, values, options)."""
    recorders = [Recorder(getattr(gpu, name)) for name in KERNELS]
    for name, recorder in zip(KERNELS, recorders, strict=True):
        monkeypatch.setattr(gpu, name, recorder)
    pre = torch.zeros(2, n_features, dtype=dtype)
    gpu.top_k(pre, k)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda _: 8)  # the counts that nobody has written
    gpu.above(pre, torch.zeros(n_features))
    monkeypatch.undo()
    for name, recorder in zip(KERNELS, recorders, strict=True):
        monkeypatch.setattr(gpu, name, recorder)
    table, index = torch.zeros(16, width, dtype=dtype), torch.zeros(2048, dtype=torch.int32)
    gpu.gather_sum(torch.tensor([0, 2048], dtype=torch.int32), index, torch.zeros(2048), table)
    gpu.sampled_product(index, index, table, table)
    monkeypatch.undo()
    return [(r.kernel, *launch) for r in recorders for launch in r.launches]


def compiled(kernel: Any, values: tuple[Any, ...], options: dict[str, Any], capability: int) -> Any:
    """What Triton makes of a launch for a GPU of this capability, specialised as a launch would specialise it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = [p.name for p in kernel.params]
    launch = {"num_warps": options.pop("num_warps", 4)}
    arguments = dict(zip(names, values, strict=False)) | options
    signature, constants, hints = {}, {}, {}
    for place, name in enumerate(names):
        value = arguments[name]
        if kernel.params[place].is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = "i32"
        if isinstance(value, Tensor) or (name not in constants and value % 16 == 0):
            hints[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=hints)
    return compile(source, target=GPUTarget("cuda", capability, 32), options=launch)


def nvidia_tools() -> Path:
    """The folder of ptxas and cuobjdump in Triton's wheel."""
    return Path(gpu.triton.__file__).parent / "backends" / "nvidia" / "bin"


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers, stack, shared and local memory of a compiled kernel, in bytes but for the registers."""
    (folder / "kernel.cubin").write_bytes(cubin)
    done = subprocess.run(
        [nvidia_tools() / "cuobjdump", "-res-usage", folder / "kernel.cubin"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: int(n) for name, n in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", done.stdout)}


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(gpu.INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "width", "n_features", "k"),
    [(torch.bfloat16, 4608, 73_728, 108), (torch.float32, 2048, 16_384, 64), (torch.float32, 37, 1001, 700)],
)
def test_every_kernel_compiles_and_keeps_its_numbers_in_registers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capability: int,
    dtype: torch.dtype,
    width: int,
    n_features: int,
    k: int,
) -> None:
    if not all((nvidia_tools() / tool).exists() for tool in ("ptxas", "cuobjdump")):
        pytest.skip("this build of triton ships no ptxas")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    launches = recorded(monkeypatch, dtype, width, n_features, k)
    assert len(launches) == len(KERNELS)
    for kernel, values, options in launches:
        made = compiled(kernel, values, options, capability)
        used = resources(made.asm["cubin"], tmp_path)
        assert used["REG"] <= 192, (kernel.__name__, used)
        assert used["LOCAL"] + used["STACK"] <= 16, (kernel.__name__, used)  # bytes spilled: a register or two at most
        assert made.metadata.shared <= 48 * 1024, (kernel.__name__, made.metadata.shared)
