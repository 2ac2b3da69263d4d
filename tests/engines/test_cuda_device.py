"""What the GPU engine asks of a device: memory, graphs, precision and CuPy, on fakes that write down every call."""

import contextlib
import dataclasses
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers.training_by_hand import JOBS, SPLITS, TRAINING, collected, population
from torch import Tensor

from modelzoo_datasets.engines import CudaEngine, Job, TorchEngine, one_thread
from modelzoo_datasets.engines.chain import get_chain
from modelzoo_datasets.engines.cuda.block_kernel import Block
from modelzoo_datasets.engines.cuda.device import GraphedStep, GraphPool, device_context, full_precision
from modelzoo_datasets.engines.cuda.evaluate import CohortEvaluator
from modelzoo_datasets.engines.cuda.kernel_compiler import (
    check_launch,
    check_shared_memory,
    compile_with_cupy,
    find_compiler_versions,
)
from modelzoo_datasets.engines.cuda.memory import choose_cohort_size, free_memory, is_out_of_memory
from modelzoo_datasets.engines.cuda.stacked_trainer import StackedTrainer
from modelzoo_datasets.errors import DeviceError, NoCompilerError, NoKernelError
from modelzoo_datasets.images import Images

CPU = torch.device("cpu")
GPU = torch.device("cuda", 1)  # not there: all calls go to fakes
SAME = [Job(training=dataclasses.replace(TRAINING, epochs=2), seed=seed) for seed in range(5)]


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    """Run on one thread; these tensors are too small for a second one."""
    with one_thread():
        yield


# Memory


@pytest.mark.parametrize(
    ("free", "shared", "each", "models", "size"),
    [
        (1000, 0, 100, 8, 8),  # 8 fit; a fifth stays free
        (1000, 0, 100, 9, 5),  # two cohorts of 5 and 4, not of 8 and 1
        (1000, 500, 100, 9, 3),
        (1000, 5000, 100, 9, 1),  # nothing fits: one at a time, and the device reports the lack of memory
        (10**12, 0, 100, 3, 3),
    ],
)
def test_a_cohort_is_as_large_as_memory_allows(free: int, shared: int, each: int, models: int, size: int) -> None:
    assert choose_cohort_size(free, shared, each, models) == size


@pytest.mark.parametrize(
    ("free", "allocated", "reserved", "share", "expected"),
    [
        (70, 20, 30, 1.0, 80),  # torch keeps 10 that it uses first
        (10, 20, 90, 1.0, 80),  # nearly all is kept by torch: the second cohort is as large as the first
        (100, 0, 0, 0.5, 50),  # two tasks on one GPU
        (60, 0, 0, 0.5, 50),  # the other one has taken its part
        (70, 30, 30, 0.5, 20),
        (100, 60, 60, 0.5, 0),
    ],
)
def test_free_memory_counts_what_torch_keeps_and_the_share_of_this_process(
    free: int, allocated: int, reserved: int, share: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 100))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    assert free_memory(GPU, share) == expected


def test_images_on_the_device_are_not_counted_twice(few_images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have left the free memory when a cohort is chosen; before that, an estimate has to leave room for them."""
    seen: list[int] = []

    def choose(free: int, shared: int, each: int, models: int) -> int:
        seen.append(shared)
        return models

    monkeypatch.setattr("modelzoo_datasets.engines.cuda.cuda_engine.choose_cohort_size", choose)
    engine = CudaEngine(CPU)
    next(engine.train("cnn-s", few_images, SAME[:1], metrics_on=()))
    engine.estimate_memory("cnn-s", few_images, SAME[:1])
    assert seen == [0, 380 * (784 + 8)]


def limit(monkeypatch: pytest.MonkeyPatch, num_models: int, epoch: int = 1) -> None:
    """Let the device be too small for more models than this, from an epoch on."""
    whole = StackedTrainer.train_epoch

    def train_epoch(self: StackedTrainer, number: int) -> tuple[Tensor, Tensor]:
        if number >= epoch and len(self.jobs) > num_models:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, number)

    monkeypatch.setattr(StackedTrainer, "train_epoch", train_epoch)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_cohort_that_does_not_fit_is_halved_until_it_does(
    epoch: int, few_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CudaEngine(CPU)
    expected = collected(engine, few_images, SAME)
    limit(monkeypatch, 2, epoch)
    sizes = [(len(s.jobs), int(s.epochs[0])) for s in engine.train("cnn-s", few_images, SAME, metrics_on=())]
    parts = [[(n, e) for e in range(epoch if epoch > 1 else 0, 3)] for n in (2, 1, 2)]
    assert sizes == [*([(5, 0), (5, 1)] if epoch > 1 else []), *parts[0], *parts[1], *parts[2]]
    found = collected(engine, few_images, SAME)  # which fails if an epoch comes twice, or late
    for index, states in expected.items():
        torch.testing.assert_close(found[index].weights, states.weights, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[index].recall, states.recall, rtol=0, atol=0, equal_nan=True)


def test_one_model_that_does_not_fit_is_one_line(few_images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 0)
    with pytest.raises(DeviceError) as caught:
        collected(CudaEngine(CPU), few_images, SAME)
    assert str(caught.value) == (
        "engine 'cuda': the free memory of the device is too little for one model of cnn-s; end other programs that "
        "use it, take a smaller batch_size, or use --engine native"
    )


def test_any_other_error_is_raised_as_it_is(few_images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_epoch(self: StackedTrainer, number: int) -> tuple[Tensor, Tensor]:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(StackedTrainer, "train_epoch", train_epoch)
    with pytest.raises(RuntimeError, match="^illegal memory access$"):
        collected(CudaEngine(CPU), few_images, SAME)


def test_an_evaluation_that_does_not_fit_is_halved(
    engine: TorchEngine, few_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, networks = population(few_images, engine)
    weights, networks = weights[:1].repeat(5, 1) * torch.linspace(0.5, 1, 5).unsqueeze(1), networks[:1] * 5
    stacked, whole, sizes = CudaEngine(CPU), CohortEvaluator.iterate_logits, list[int]()
    expected = stacked.evaluate("cnn-s", few_images, weights, networks, "test")
    logits = dict(stacked.compute_logits("cnn-s", few_images, weights, networks, "test"))

    def iterate_logits(self: CohortEvaluator, stack: Any, split: str) -> Iterator[Any]:
        sizes.append(len(stack.trained))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, stack, split)

    monkeypatch.setattr(CohortEvaluator, "iterate_logits", iterate_logits)
    found = stacked.evaluate("cnn-s", few_images, weights, networks, "test")
    assert sizes == [5, 3, 2, 1, 2]
    torch.testing.assert_close(found.loss, expected.loss)
    again = dict(stacked.compute_logits("cnn-s", few_images, weights, networks, "test"))
    assert sorted(again) == [0, 1, 2, 3, 4]
    for index, z in logits.items():
        torch.testing.assert_close(again[index], z)


def test_images_that_do_not_fit_are_one_line(few_images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_images(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("modelzoo_datasets.engines.cuda.cuda_engine.DeviceImages.from_images", from_images)
    told = "^engine 'cuda': the free memory of the device is too little for the images fashion-mnist-5k; end "
    with pytest.raises(DeviceError, match=told):
        collected(CudaEngine(CPU), few_images, SAME[:1])


def test_a_lack_of_memory_is_recognized_behind_what_it_caused() -> None:
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError:
            raise RuntimeError("capture was invalidated")  # noqa: B904 - as the end of a capture does
    except RuntimeError as error:
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("out of luck")) and not is_out_of_memory(None)


def test_a_finished_trainer_holds_no_steps(few_images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle of references would keep the memory of a cohort while the next one is trained."""
    trainers: list[StackedTrainer] = []
    whole = StackedTrainer.close

    def close(self: StackedTrainer) -> None:
        assert self._steps
        whole(self)
        trainers.append(self)

    monkeypatch.setattr(StackedTrainer, "close", close)
    collected(CudaEngine(CPU), few_images, SAME[:1])
    assert len(trainers) == 1 and not trainers[0]._steps


# Graphs


class FakeCuda:
    """Streams and graphs that write down what is done with them, on a device that runs nothing by itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.graphs: list[Any] = []
        self.current, self.pools = types.SimpleNamespace(name="current", wait_stream=self._wait), 0
        for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def _wait(self, other: Any) -> None:
        self.calls.append(f"wait for {other.name}")

    def Stream(self, device: torch.device) -> Any:
        return types.SimpleNamespace(name=f"stream on {device}", wait_stream=self._wait)

    def current_stream(self, device: torch.device) -> Any:
        assert device == GPU
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.calls.append(f"within {stream.name}")
        yield
        self.calls.append("out")

    def graph_pool_handle(self) -> tuple[int, int]:
        self.pools += 1
        return (0, self.pools)

    def CUDAGraph(self) -> Any:
        return types.SimpleNamespace(replay=lambda: self.calls.append("replay"))

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any, stream: Any) -> Iterator[None]:
        self.graphs.append((pool, stream.name))
        self.calls.append("capture")
        yield
        self.calls.append("captured")


def test_a_step_is_warmed_up_and_captured_once_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, state = FakeCuda(monkeypatch), torch.zeros(1)

    def step() -> None:
        cuda.calls.append("step")
        state.add_(1)

    run = GraphedStep(step, GraphPool(GPU), [state])
    run()
    stream = "stream on cuda:1"
    warm_up = ["wait for current", f"within {stream}", "step", "step", "out", f"wait for {stream}"]
    assert cuda.calls == [*warm_up, "capture", "step", "captured", "replay"]
    assert state.item() == 1, "warming up left no trace; capturing, which a GPU does without running, did here"
    cuda.calls.clear()
    run()
    assert cuda.calls == ["replay"]


def test_graphs_of_whole_and_smaller_batches_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    pool = GraphPool(GPU)
    for _ in range(2):
        GraphedStep(lambda: None, pool, [])()
    assert cuda.graphs == [((0, 1), "stream on cuda:1")] * 2


def test_on_the_cpu_a_step_is_called() -> None:
    calls: list[int] = []
    run = GraphedStep(lambda: calls.append(1), GraphPool(CPU), [])
    run()
    run()
    assert calls == [1, 1]


# Precision


def read_switches() -> list[Any]:
    """Return all switches that decide whether float32 products are computed in TF32, an error for those unreadable."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    owners: list[tuple[Any, str]] = [(cudnn, "allow_tf32"), (matmul, "allow_tf32")]
    owners += [(getattr(cudnn, name, None), "fp32_precision") for name in ("conv", "rnn")]
    owners += [(matmul, "fp32_precision")]
    found: list[Any] = []
    for read in (torch.get_float32_matmul_precision, *(lambda o=o, n=n: getattr(o, n) for o, n in owners)):
        try:
            found.append(read())
        except (AttributeError, RuntimeError) as error:
            found.append(type(error).__name__)
    return found


@pytest.fixture
def switches() -> Iterator[None]:
    """Put all switches back."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


CHOICES: dict[str, Callable[[], None]] = {
    "default": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "no tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
}
if hasattr(torch.backends.cudnn, "conv"):  # since torch 2.9
    CHOICES["mixed"] = lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")  # type: ignore[attr-defined]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.usefixtures("switches")
def test_full_precision_is_for_within_only_and_can_be_read_there(choice: str) -> None:
    if choice == "mixed" and not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this torch has one switch for all")
    CHOICES[choice]()
    before = read_switches()
    with pytest.raises(RuntimeError, match="stop"), full_precision():
        precision, convolutions, products, *new = read_switches()
        assert (precision, products) == ("highest", False)
        assert convolutions is False or choice == "mixed", "torch reads no mixture, within or without"
        assert set(new) <= {"ieee", "AttributeError"}
        raise RuntimeError("stop")
    assert read_switches() == before


def test_convolutions_are_deterministic_within_the_engine() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.benchmark = True
    try:
        with device_context(CPU):
            assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
        assert (cudnn.deterministic, cudnn.benchmark) == (before[0], True)
    finally:
        cudnn.deterministic, cudnn.benchmark = before


# CuPy


class FakeCupy(types.ModuleType):
    """CuPy that compiles nothing and writes down what it is asked for."""

    __version__ = "14.2.0"

    def __init__(self, error: str | None = None) -> None:
        super().__init__("cupy")
        self.error = error
        self.here: list[int] = [0]  # devices, the innermost last
        self.log: list[Any] = []
        self.cuda = types.SimpleNamespace(
            Device=self._device,
            Stream=types.SimpleNamespace(from_external=self._stream),
            compiler=types.SimpleNamespace(CompileException=type("CompileException", (Exception,), {})),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 2)),
        )
        self.uint64 = int

    def _device(self, index: int) -> Any:
        fake = self

        class Device:
            def __enter__(self) -> None:
                fake.here.append(index)

            def __exit__(self, *_: Any) -> None:
                fake.here.pop()

        return Device()

    @contextlib.contextmanager
    def _stream(self, stream: str) -> Iterator[None]:
        self.log.append(("stream", stream))
        yield

    def RawKernel(self, source: str, name: str, options: Sequence[str], backend: str) -> Any:
        fake = self
        if self.error is not None:
            raise self.cuda.compiler.CompileException(self.error)
        fake.log.append(("compile", name, tuple(options), backend, fake.here[-1]))

        class Kernel:
            def __setattr__(self, key: str, value: int) -> None:
                fake.log.append((key, value, fake.here[-1]))

            def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
                fake.log.append(("launch", grid, block, shared_mem, fake.here[-1]))

        return Kernel()


@pytest.fixture
def block() -> Block:
    return Block.from_stages(get_chain("cnn-s", "tanh", 0.0), 10)


@pytest.fixture
def use_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeCupy]]:
    def use(shared_bytes: int = 232_448, error: str | None = None) -> FakeCupy:
        fake = FakeCupy(error)
        properties = types.SimpleNamespace(shared_memory_per_block_optin=shared_bytes)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setitem(sys.modules, "cupy", fake)
        return fake

    compile_with_cupy.cache_clear()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    yield use
    compile_with_cupy.cache_clear()


def test_a_kernel_is_compiled_for_each_gpu_and_launched_where_it_was(
    block: Block, use_cupy: Callable[..., FakeCupy]
) -> None:
    cupy = use_cupy()
    first, second = (compile_with_cupy(block, index) for index in (0, 1))
    assert first is not second and compile_with_cupy(block, 1) is second
    options = ("-std=c++17", "-ftz=true")  # CuPy appends the second one: named here, every compiler has it
    for index in (0, 1):
        assert ("compile", "train_epoch", options, "nvrtc", index) in cupy.log
        assert ("max_dynamic_shared_size_bytes", block.memory_bytes, index) in cupy.log
    cupy.log.clear()
    second(torch.zeros(17, dtype=torch.int64), 3)
    assert cupy.log == [("stream", "stream of 1"), ("launch", (3,), (512,), block.memory_bytes, 1)]


def test_a_gpu_with_too_little_shared_memory_is_one_line_before_anything_is_compiled(
    block: Block, use_cupy: Callable[..., FakeCupy]
) -> None:
    cupy = use_cupy(shared_bytes=101_376)
    with pytest.raises(NoKernelError) as caught:
        compile_with_cupy(block, 0)
    assert str(caught.value) == (
        f"a model needs {block.memory_bytes:,} bytes of shared memory, and a thread block of this GPU has 101,376"
    )
    assert cupy.log == [] and not isinstance(caught.value, NoCompilerError)
    check_shared_memory(block, block.memory_bytes)


def test_a_compiler_that_fails_is_its_first_line(block: Block, use_cupy: Callable[..., FakeCupy]) -> None:
    use_cupy(error="error: no such thing\nsecond line")
    with pytest.raises(NoCompilerError, match="^CuPy: error: no such thing$"):
        compile_with_cupy(block, 0)


def test_the_versions_of_the_compiler_are_known(
    use_cupy: Callable[..., FakeCupy], monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy = use_cupy()
    assert find_compiler_versions() == {"cupy": "14.2.0", "nvrtc": "13.2"}

    def fail() -> None:
        raise RuntimeError("libnvrtc.so not found")

    cupy.cuda.nvrtc.getVersion = fail
    with pytest.raises(NoCompilerError, match=r"^CuPy: libnvrtc.so not found$"):
        find_compiler_versions()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(NoCompilerError, match=r"pip install 'modelzoo-datasets\[cuda\]'$"):
        find_compiler_versions()


def test_a_first_launch_that_fails_or_does_nothing_is_told(block: Block) -> None:
    def fail(fields: Tensor, num_models: int) -> None:
        raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid\nargument")

    with pytest.raises(NoCompilerError, match="^its first launch failed: CUDA_ERROR_INVALID_VALUE: invalid argument$"):
        check_launch(fail, block, CPU)
    with pytest.raises(NoCompilerError, match=r"^its first launch computed a loss of 0 instead of 2\.30259$"):
        check_launch(lambda fields, num_models: None, block, CPU)


def test_after_a_broken_launch_weights_are_stacked_and_one_line_says_why(
    few_images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    def compile_kernel(block: Block) -> Callable[[Tensor, int], None]:
        return lambda fields, num_models: None

    found = collected(CudaEngine(CPU, compile_kernel=compile_kernel), few_images, JOBS[:1], SPLITS)
    assert caplog.messages == [
        "engine 'cuda' trains cnn-s with stacked weights, without its kernel: its first launch computed a loss of 0 "
        "instead of 2.30259"
    ]
    expected = collected(CudaEngine(CPU), few_images, JOBS[:1], SPLITS)
    assert torch.equal(found[0].weights, expected[0].weights)


def test_a_gpu_is_numbered_when_the_engine_is_made(
    monkeypatch: pytest.MonkeyPatch, use_cupy: Callable[..., FakeCupy], block: Block
) -> None:
    cupy = use_cupy()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for device, index in ((None, 1), (torch.device("cuda"), 1), (torch.device("cuda", 0), 0)):
        engine = CudaEngine(device)
        assert engine.device == torch.device("cuda", index)
        assert engine._compile_kernel is not None
        engine._compile_kernel(block)
    assert [entry[-1] for entry in cupy.log if entry[0] == "compile"] == [1, 0]
