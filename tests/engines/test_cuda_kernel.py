"""The kernel of the GPU engine in a CPU build of the same source: gradients, trainings, barriers and compilers.

The build has one thread per block. On a GPU only the distribution of work over threads differs; that has not been run.
"""

import copy
import ctypes
import dataclasses
import importlib.util
import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_by_hand import JOBS, MIXED, SPLITS, TRAINING, collected
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modelzoo_datasets.architectures import Architecture, build_module, get_architecture, registry
from modelzoo_datasets.architectures.modules import seed_dropout
from modelzoo_datasets.engines import CudaEngine, Job, States, TorchEngine, one_thread
from modelzoo_datasets.engines.chain import get_chain
from modelzoo_datasets.engines.common import build_initial_module, pack_state
from modelzoo_datasets.engines.cuda.block_kernel import (
    GPU_OPTIONS,
    OPTIONS,
    SHARED_BYTES,
    THREADS,
    Block,
    CompileKernel,
    LaunchKernel,
    kernel_source,
)
from modelzoo_datasets.engines.cuda.block_trainer import BlockTrainer, make_block
from modelzoo_datasets.engines.cuda.evaluate import DeviceImages
from modelzoo_datasets.engines.cuda.kernel_compiler import check_launch, compile_with_cupy
from modelzoo_datasets.engines.self_check import CHAIN_CASES, find_deviation
from modelzoo_datasets.errors import NoKernelError
from modelzoo_datasets.images import Images, Split
from modelzoo_datasets.seeds import keyed_generator

CPU = torch.device("cpu")
COMPILER = shutil.which("g++") or shutil.which("clang++")
NVCC = shutil.which("nvcc")
BUILT = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
Build = Callable[[str, str], ctypes.CDLL]


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    """Run on one thread; these tensors are too small for a second one."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that compiles a source into a library."""
    folder = tmp_path_factory.mktemp("kernels")

    def built(name: str, source: str) -> ctypes.CDLL:
        path = folder / f"{name}.so"
        if not path.exists():
            compiled_by_cpp(source, path, "-O2", "-shared", "-fPIC")
        return ctypes.CDLL(str(path))

    return built


def compiled_by_cpp(source: str, path: Path, *options: str) -> None:
    path.with_suffix(".cpp").write_text(source)
    options = (*OPTIONS, *options, "-Wall", "-Werror", "-Wno-unknown-pragmas", "-pthread")
    subprocess.run([str(COMPILER), *options, str(path.with_suffix(".cpp")), "-o", str(path)], check=True)


@pytest.fixture(scope="module")
def compile_kernel(build: Build) -> CompileKernel:
    """Return a function that builds a kernel for the CPU and checks that it writes only into its own memory."""

    def compiled(block: Block) -> LaunchKernel:
        return launch_of(block, build(f"kernel-{abs(hash(block))}", kernel_source(block)))

    return compiled


def launch_of(block: Block, library: ctypes.CDLL) -> LaunchKernel:
    margin = 256  # bytes

    def launch(fields: Tensor, models: int) -> None:
        shared = torch.full((block.memory_bytes + 2 * margin,), 0xFF, dtype=torch.uint8)  # NaN
        torch.set_flush_denormal(True)  # as on a GPU, see GPU_OPTIONS; threads of the kernel inherit it
        library.train_epoch(ctypes.c_void_p(fields.data_ptr()), models, ctypes.c_void_p(shared.data_ptr() + margin))
        torch.set_flush_denormal(False)
        assert (shared[:margin] == 0xFF).all() and (shared[-margin:] == 0xFF).all()

    return launch


@pytest.fixture(scope="module")
def kernel(compile_kernel: CompileKernel) -> CudaEngine:
    """Return the engine with the kernel, on the CPU; a chain without a kernel fails the test."""

    def strict(block: Block) -> LaunchKernel:
        try:
            return compile_kernel(block)
        except NoKernelError as error:
            raise AssertionError(str(error)) from error

    return CudaEngine(CPU, compile_kernel=strict)


def some(images: Images, n: int) -> Images:
    train = images.splits["train"]
    return dataclasses.replace(images, splits={**images.splits, "train": Split(train.pixels[:n], train.labels[:n])})


def color_noise(n: int) -> Images:
    pixels = torch.randint(256, (n, 3, 32, 32), generator=keyed_generator(0, "noise")).to(torch.uint8)
    return Images("noise", 10, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), {"train": Split(pixels, torch.arange(n) % 10)})


def gradients(
    architecture: str, images: Images, jobs: list[Job], compile_kernel: CompileKernel
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, gradients of the first step of the kernel, and gradients of float64 autograd, (M, P) each."""
    vectors = torch.stack([pack_state(build_initial_module(architecture, job)) for job in jobs])
    trainer = BlockTrainer(
        architecture, DeviceImages.from_images(images, {"train"}, CPU), jobs, vectors, 1, compile_kernel
    )
    loss, accuracy = trainer.train_epoch(1)
    trainer.close()
    expected = []
    for place, (job, vector) in enumerate(zip(jobs, vectors, strict=True)):
        found = get_architecture(architecture)
        t = job.training
        module = build_module(found, vector, activation=t.activation, dropout=t.dropout).double().train()
        seed_dropout(module, keyed_generator(job.seed, "dropout", 1))
        order = torch.randperm(len(images.labels("train")), generator=keyed_generator(job.seed, "order", 1))
        logits, y = module(images.inputs("train")[order].double()), images.labels("train")[order]
        value = cross_entropy(logits, y)
        value.backward()
        expected.append(nn.utils.parameters_to_vector([p.grad for p in module.parameters() if p.grad is not None]))
        assert loss[place].item() == pytest.approx(value.item(), rel=1e-6)
        assert accuracy[place].item() == (logits.argmax(dim=1) == y).sum().item() / len(y)
    return vectors, trainer.momenta(), torch.stack(expected)


@BUILT
@pytest.mark.parametrize("architecture", ["cnn-s", "cnn-m", "cnn-more-layers"])
def test_gradients_are_those_of_float64_autograd(
    architecture: str, few_images: Images, compile_kernel: CompileKernel
) -> None:
    """Test all activations, with dropout if the network has it; the batch has several tiles, the last one smaller."""
    images = color_noise(5) if architecture == "cnn-m" else some(few_images, 20)
    dropouts = (0.0,) if architecture == "cnn-more-layers" else (0.0, 0.3)
    base = dataclasses.replace(TRAINING, optimizer="sgd", momentum=0.0, weight_decay=0.0, epochs=1, lr=0.1)
    base = dataclasses.replace(base, batch_size=len(images.labels("train")))
    trainings = [
        dataclasses.replace(base, activation=activation, dropout=dropout)
        for activation in ("tanh", "relu", "sigmoid", "gelu")
        for dropout in dropouts
    ]
    jobs = [Job(training=training, seed=seed) for seed, training in enumerate(trainings)]
    assert 1 < make_block(architecture, jobs).tile < base.batch_size
    _, found, expected = gradients(architecture, images, jobs, compile_kernel)
    errors = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert errors.max() < 1e-6, errors


def assert_same(found: dict[int, States], expected: dict[int, States], bound: float = 1e-3) -> None:
    """Assert that updates as a whole are equal to the relative `bound`, and metrics to rounding."""
    assert list(found) == list(expected)
    for index, states in expected.items():
        assert torch.equal(found[index].weights[0], states.weights[0])
        moved, wrong = states.weights - states.weights[0], found[index].weights - states.weights
        assert (wrong.norm(dim=1) <= bound * moved.norm(dim=1)).all(), f"job {index}"
        for name, column in states.metrics.items():
            torch.testing.assert_close(found[index].metrics[name], column, rtol=1e-4, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(found[index].recall, states.recall, rtol=0, atol=0, equal_nan=True)


@BUILT
def test_mixed_jobs_are_those_of_the_reference(kernel: CudaEngine, engine: TorchEngine, few_images: Images) -> None:
    """Mix SGD, Adam, AdamW, activations, dropout, rates, one-cycle schedules, smaller last batches and epochs."""
    cycle = {"schedule": "onecycle", "lr": 0.01, "batch_size": 32, "epochs": 2, "dropout": 0.1}
    jobs = [*JOBS, *(Job(training=dataclasses.replace(training, **cycle), seed=9) for training in MIXED[:2])]
    assert_same(collected(kernel, few_images, jobs), collected(engine, few_images, jobs))


@BUILT
def test_the_published_init_over_hundreds_of_adam_steps(
    kernel: CudaEngine, engine: TorchEngine, images: Images
) -> None:
    """Test U(0, 1): units start at sums of up to 35, where Adam turns any slope except 0 into full steps."""
    training = dataclasses.replace(TRAINING, init="uniform", lr=3e-4, batch_size=10, epochs=1, weight_decay=0.0)
    jobs = [
        Job(training=dataclasses.replace(training, activation=activation), seed=seed)
        for seed, activation in enumerate(("tanh", "tanh", "sigmoid", "gelu"))
    ]
    found, expected = (collected(e, some(images, 3000), jobs, ("test",)) for e in (kernel, engine))
    gelu = len(jobs) - 1  # here torch itself, stacked and not, differs by 2e-3
    assert_same({i: s for i, s in found.items() if i < gelu}, {i: s for i, s in expected.items() if i < gelu}, 3e-4)
    moved, wrong = (states[gelu].weights[1] - expected[gelu].weights[k] for k, states in ((0, expected), (1, found)))
    assert wrong.norm() < 1e-2 * moved.norm()


@BUILT
def test_the_medium_cnn_trains_as_the_reference(kernel: CudaEngine, engine: TorchEngine) -> None:
    """Test a network whose optimizer state is outside of shared memory."""
    training = dataclasses.replace(TRAINING, batch_size=5, epochs=2, dropout=0.2, activation="gelu", lr=1e-3)
    jobs = [Job(training=training, seed=seed) for seed in (1, 2)]
    assert not make_block("cnn-m", jobs).shares_state
    found, expected = (collected(e, color_noise(23), jobs, (), "cnn-m") for e in (kernel, engine))
    assert_same(found, expected)


def _odd(activation: str, dropout: float) -> nn.Module:
    """A chain with separate pooling of an odd number of rows, wide kernels and layers without biases."""
    acts = {"tanh": nn.Tanh, "relu": nn.ReLU}
    return nn.Sequential(
        *(nn.Conv2d(1, 3, (4, 7)), acts[activation](), nn.MaxPool2d(2), nn.Dropout(dropout)),  # 25x22 -> 12x11
        *(nn.Conv2d(3, 5, (2, 3), bias=False), nn.MaxPool2d(2), nn.ReLU()),  # 11x9 -> 5x4
        *(nn.Flatten(), nn.Linear(100, 7, bias=False), acts[activation](), nn.Dropout(dropout), nn.Linear(7, 10)),
    )


@BUILT
def test_any_chain_is_taken(
    kernel: CudaEngine,
    compile_kernel: CompileKernel,
    engine: TorchEngine,
    few_images: Images,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = Architecture("odd", (1, 28, 28), 10, _odd)
    monkeypatch.setattr(registry, "_ARCHITECTURES", {**registry._ARCHITECTURES, "odd": odd})
    sgd = dataclasses.replace(TRAINING, optimizer="sgd", momentum=0.0, weight_decay=0.0, epochs=1, batch_size=9)
    jobs = [Job(training=dataclasses.replace(sgd, dropout=p), seed=1) for p in (0.0, 0.4)]
    _, found, expected = gradients("odd", some(few_images, 9), jobs, compile_kernel)
    assert ((found - expected).norm(dim=1) < 1e-6 * expected.norm(dim=1)).all()
    jobs = [Job(training=dataclasses.replace(TRAINING, dropout=0.4, activation=a), seed=2) for a in ("tanh", "relu")]
    assert_same(*(collected(e, few_images, jobs, SPLITS, "odd") for e in (kernel, engine)))


@BUILT
def test_a_model_does_not_depend_on_its_neighbors(kernel: CudaEngine, few_images: Images) -> None:
    jobs = [dataclasses.replace(JOBS[1], seed=seed) for seed in range(3)] + [JOBS[0], JOBS[3]]
    together = collected(kernel, few_images, jobs, ())
    for index, job in enumerate(jobs):
        alone = collected(kernel, few_images, [job], ())[0]
        assert torch.equal(alone.weights, together[index].weights)
        assert alone.metrics["train_loss"].nan_to_num().equal(together[index].metrics["train_loss"].nan_to_num())


@BUILT
def test_a_cohort_that_is_halved_gives_the_same_bits(
    kernel: CudaEngine, few_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [dataclasses.replace(JOBS[1], seed=seed) for seed in range(3)]
    expected = collected(kernel, few_images, jobs)
    whole = BlockTrainer.train_epoch

    def train_epoch(self: BlockTrainer, epoch: int) -> tuple[Tensor, Tensor]:
        if epoch == 2 and len(self.jobs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, epoch)

    monkeypatch.setattr(BlockTrainer, "train_epoch", train_epoch)
    found = collected(kernel, few_images, jobs)
    for index, states in expected.items():
        assert torch.equal(found[index].weights, states.weights) and torch.equal(found[index].recall, states.recall)


@BUILT
def test_the_first_launch_of_a_sound_kernel_passes(compile_kernel: CompileKernel) -> None:
    for architecture, batch in (("cnn-s", 10), ("cnn-m", 5)):
        block = Block.from_stages(get_chain(architecture, "tanh", 0.0), batch)
        check_launch(compile_kernel(block), block, CPU)


@BUILT
def test_the_kernel_passes_the_self_check(kernel: CudaEngine) -> None:
    """Compare it with the torch engine, which shares no arithmetic with it."""
    assert find_deviation(kernel, TorchEngine(num_workers=1), CHAIN_CASES) is None
    assert kernel.environment("cnn-s")["path"] == "kernel" and kernel.environment("res-cnn")["path"] == "stacked"


@BUILT
def test_subnormal_numbers_are_flushed_as_on_a_gpu(kernel: CudaEngine, engine: TorchEngine, few_images: Images) -> None:
    """A rate so small that every step is subnormal moves weights of zero in the reference, and not here."""
    training = dataclasses.replace(TRAINING, optimizer="sgd", lr=1e-39, momentum=0.0, weight_decay=0.0, epochs=1)
    jobs = [Job(training=training, seed=0, initial_weights=torch.zeros(2464))]
    found, expected = (collected(e, few_images, jobs, ())[0].weights[1] for e in (kernel, engine))
    assert 0 < expected.abs().max() < torch.finfo(torch.float32).tiny and not found.any()


@BUILT
def test_threads_of_a_block_share_the_work_and_change_no_bit(
    build: Build, kernel: CudaEngine, few_images: Images
) -> None:
    """Run seven CPU threads with real barriers, which stand for the threads of a block and __syncthreads."""

    def threaded(block: Block) -> LaunchKernel:
        source = f"#define BLOCK_THREADS 7\n{kernel_source(block)}"
        return launch_of(block, build(f"threads-{abs(hash(block))}", source))

    jobs = [Job(training=dataclasses.replace(JOBS[1].training, epochs=1), seed=seed) for seed in (1, 2)]
    found = collected(CudaEngine(CPU, compile_kernel=threaded), some(few_images, 45), jobs, ())
    expected = collected(kernel, some(few_images, 45), jobs, ())
    for index in (0, 1):
        assert torch.equal(found[index].weights, expected[index].weights)
        assert torch.equal(found[index].metrics["train_loss"][1:], expected[index].metrics["train_loss"][1:])


RACING = """
#include <cstdio>
#include <vector>
int main() {  // two models on images of noise, batches of 12, dropout everywhere
    constexpr int NUM_IMAGES = IMAGES, BATCH_SIZE = 12, NUM_MODELS = 2, NUM_STEPS = 7;
    std::vector<unsigned char> pixels(NUM_IMAGES * Sizes::INPUTS);
    std::vector<int> labels(NUM_IMAGES), orders(NUM_MODELS * NUM_IMAGES), plans(NUM_MODELS);
    std::vector<int> adaptive{0, 1}, seeds{1, 2};
    std::vector<int> activations(NUM_MODELS * Sizes::STAGES, TANH);
    std::vector<float> table(256 * Sizes::CHANNELS), rates(NUM_STEPS * 5, 0.01f), shared(SHARED / 4 + 1);
    std::vector<float> weights(NUM_MODELS * Sizes::PARAMETERS), first(weights), second(weights);
    std::vector<float> dropouts(NUM_MODELS * Sizes::STAGES, 0.3f);
    std::vector<double> losses(NUM_MODELS);
    std::vector<long long> correct(NUM_MODELS);
    unsigned next = 1;
    auto draw = [&] { return next = next * 1664525u + 1013904223u, static_cast<int>(next >> 16); };
    for (auto& pixel : pixels) pixel = draw() % 256;
    for (auto& weight : weights) weight = (draw() % 1000 - 500) * 4e-4f;
    for (int i = 0; i < 256 * Sizes::CHANNELS; ++i) table[i] = (i % 256 - 128) / 64.0f;
    for (int i = 0; i < NUM_IMAGES; ++i) labels[i] = draw() % 10, orders[i] = orders[NUM_IMAGES + i] = i;
    Epoch epoch{pixels.data(), labels.data(), orders.data(), table.data(), weights.data(), first.data(), second.data(),
                rates.data(), plans.data(), adaptive.data(), activations.data(), dropouts.data(), seeds.data(),
                losses.data(), correct.data(), NUM_IMAGES, BATCH_SIZE};
    train_epoch(&epoch, NUM_MODELS, shared.data());
    std::printf("%f %f\\n", losses[0] / NUM_IMAGES, losses[1] / NUM_IMAGES);
}
"""


@BUILT
@pytest.mark.parametrize(("architecture", "images"), [("cnn-s", 75), ("cnn-m", 27)])
def test_no_barrier_is_missing(architecture: str, images: int, tmp_path: Path) -> None:
    """Run ThreadSanitizer on a block of four threads: it finds reads and writes without a barrier between them."""
    block = Block.from_stages(get_chain(architecture, "tanh", 0.0), 12)
    head = f"#define BLOCK_THREADS 4\n#define SHARED {block.memory_bytes}\n#define IMAGES {images}\n"
    source = f"{head}{kernel_source(block)}{RACING}"
    try:
        compiled_by_cpp(source, tmp_path / "racing", "-O1", "-fsanitize=thread")
    except subprocess.CalledProcessError:
        pytest.skip("no ThreadSanitizer here")
    done = subprocess.run([str(tmp_path / "racing")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    assert all(1 < float(loss) < 10 for loss in done.stdout.split()) and len(done.stdout.split()) == 2


@BUILT
def test_a_diverged_model_is_nan_and_alone(kernel: CudaEngine, engine: TorchEngine, few_images: Images) -> None:
    wild = dataclasses.replace(TRAINING, optimizer="sgd", lr=1e30)
    found = collected(kernel, few_images, [JOBS[0], Job(training=wild, seed=0)])
    assert not found[1].weights[-1].isfinite().all()
    assert_same({0: found[0]}, collected(engine, few_images, JOBS[:1]))


@BUILT
def test_activations_saturate_where_those_of_torch_do(build: Build) -> None:
    x = torch.linspace(-40, 40, 160001)
    part = kernel_source(Block.from_stages(get_chain("cnn-s", "tanh", 0.0), 10))
    wrapper = (
        'extern "C" void all(int kind, int n, const float* x, float* y, float* slope) {'
        "for (int i = 0; i < n; ++i) { Activated a = activate(kind, x[i]); y[i] = a.value; slope[i] = a.slope; } }"
    )
    library = build("activations", f"{part}\n{wrapper}")
    functions: list[Callable[[Tensor], Tensor]] = [torch.tanh, torch.relu, torch.sigmoid, nn.functional.gelu]
    for kind, function in enumerate(functions, start=1):
        y, slope = torch.empty_like(x), torch.empty_like(x)
        library.all(kind, len(x), *(ctypes.c_void_p(t.data_ptr()) for t in (x, y, slope)))
        (exact, exact_slope), (rounded, rounded_slope) = (with_slope(function, v) for v in (x.double(), x))
        torch.testing.assert_close(y.double(), exact, rtol=2e-7, atol=5e-7)
        torch.testing.assert_close(slope.double(), exact_slope, rtol=2e-7, atol=2e-7)
        # torch has two slopes of GELU: one is exactly 0 below -6.2, the other is exact. So the slope is not compared.
        for value, wanted in ((y, rounded), (slope, rounded_slope))[: 1 if function is nn.functional.gelu else 2]:
            for level in (0.0, 1.0):
                assert ((value == level) != (wanted == level)).sum() <= 25, (kind, level)  # of 160,001


def with_slope(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    return y.detach(), torch.autograd.grad(y.sum(), leaf)[0]


def test_sizes_fit_and_are_as_large_as_they_can_be() -> None:
    stages = {name: get_chain(name, "tanh", 0.0) for name in ("cnn-s", "cnn-m")}
    small, medium = Block.from_stages(stages["cnn-s"], 10), Block.from_stages(stages["cnn-m"], 10)
    assert (small.tile, small.shares_state, small.num_parameters) == (10, True, 2464)
    assert (medium.tile, medium.shares_state, medium.num_parameters) == (2, False, 10853)
    for name, batch in (("cnn-s", 1), ("cnn-s", 32), ("cnn-s", 500), ("cnn-m", 1), ("cnn-m", 128)):
        block = Block.from_stages(stages[name], batch)
        tiles = -(-batch // block.tile)
        assert block.memory_bytes <= SHARED_BYTES and block.tile * (tiles - 1) < batch, "no tile is empty"
    assert Block.from_stages(stages["cnn-s"], 10, shared_bytes=120_000).tile == 4, (
        "10 images are 4, 4 and 2, two blocks"
    )
    with pytest.raises(NoKernelError, match="its weights and one image do not fit into 100,000 bytes of shared memory"):
        Block.from_stages(stages["cnn-m"], 10, shared_bytes=100_000)


def test_the_order_of_the_kernel_has_every_weight_once() -> None:
    architecture = get_architecture("cnn-m")
    places = Block.from_stages(get_chain("cnn-m", "tanh", 0.5), 10).kernel_order(architecture.layout)
    assert places.sort().values.tolist() == list(range(10853))
    weight = torch.arange(10853)[places][:432].view(3, 3, 3, 16)  # channel, row, column, unit
    assert torch.equal(weight.movedim(3, 0), torch.arange(432).view(16, 3, 3, 3))


@pytest.mark.parametrize(
    ("architecture", "changes", "why"),
    [
        ("cnn-s", {"augmentation": "crop-flip"}, "^it supports neither twins nor augmentation$"),
        ("res-cnn", {}, "^the input of res1_pool is not the output of the layer before it"),
        ("resnet18", {"activation": "relu"}, "^the input of layer2.0.downsample.0 is not"),
    ],
)
def test_what_the_kernel_cannot_do_is_said(architecture: str, changes: dict[str, Any], why: str) -> None:
    jobs = [Job(training=dataclasses.replace(TRAINING, **changes), seed=0)]
    with pytest.raises(NoKernelError, match=why):
        make_block(architecture, jobs)


def test_twins_are_not_for_the_kernel() -> None:
    job = Job(training=TRAINING, seed=0, initial_weights=torch.zeros(2464), sparsify=True)
    with pytest.raises(NoKernelError, match="^it supports neither twins nor augmentation$"):
        make_block("cnn-s", [job])


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_weights_are_stacked_and_one_line_says_why(
    few_images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = collected(
            CudaEngine(CPU, compile_kernel=lambda block: compile_with_cupy(block, 0)), few_images, JOBS[:1], ()
        )
    assert caplog.messages == [
        "engine 'cuda' trains cnn-s with stacked weights, without its kernel: No module named 'cupy'; "
        "pip install 'modelzoo-datasets[cuda]'"
    ]
    expected = collected(CudaEngine(CPU, compile_kernel=None), few_images, JOBS[:1], ())
    assert torch.equal(found[0].weights, expected[0].weights)


@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
@pytest.mark.parametrize(("architecture", "batch"), [("cnn-s", 10), ("cnn-m", 10)])
def test_nvcc_compiles_it_and_it_fits_on_a_multiprocessor(architecture: str, batch: int, tmp_path: Path) -> None:
    block = Block.from_stages(get_chain(architecture, "tanh", 0.0), batch)
    source = tmp_path / "kernel.cu"
    source.write_text(kernel_source(block))
    command = [str(NVCC), *GPU_OPTIONS, "-arch=sm_90", "-cubin", "--resource-usage", "-Werror", "all-warnings"]
    done = subprocess.run([*command, str(source), "-o", str(tmp_path / "kernel.cubin")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    registers, spilled = (
        int(re.search(pattern, done.stderr).group(1))  # type: ignore[union-attr]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )
    static = re.search(r"(\d+) bytes smem", done.stderr)
    assert registers * THREADS <= 65536 and spilled == 0
    assert block.memory_bytes + (int(static.group(1)) if static else 0) <= 227 * 1024


def test_nvrtc_compiles_it() -> None:
    """Compile without any header of C++, as CuPy does on a GPU."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    source = kernel_source(Block.from_stages(get_chain("cnn-s", "tanh", 0.0), 10)).encode()
    try:
        _, program = nvrtc.nvrtcCreateProgram(source, b"kernel.cu", 0, [], [])
    except RuntimeError:
        pytest.skip("no NVRTC here")
    options = [*(option.encode() for option in GPU_OPTIONS), b"--gpu-architecture=sm_90"]
    (found,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    # NVRTC writes into the bytes, so they must not be a shared object, as bytes of length 1 are.
    log = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1] + 2)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert found == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()


@pytest.mark.gpu
def test_on_a_gpu_the_kernel_is_the_reference(engine: TorchEngine, few_images: Images) -> None:
    pytest.importorskip("cupy")
    found = collected(CudaEngine(), few_images, copy.deepcopy(JOBS))
    assert_same(found, collected(engine, few_images, JOBS), bound=1e-2)
