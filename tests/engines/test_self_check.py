"""The self-check: engines that are right pass, engines that are wrong in one thing do not, and results are kept."""

import dataclasses
import json
import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modelzoo_datasets import generate_zoo
from modelzoo_datasets._util import versions
from modelzoo_datasets.engines import (
    CudaEngine,
    Engine,
    Job,
    NativeEngine,
    SplitMetrics,
    States,
    TorchEngine,
    get_engine,
    one_thread,
)
from modelzoo_datasets.engines.cuda import device_check
from modelzoo_datasets.engines.cuda.device_check import (
    DeviceInfo,
    check_result,
    explain_unsound,
    hash_source,
    run_self_check,
)
from modelzoo_datasets.engines.cuda.stacked import StackedModels
from modelzoo_datasets.engines.cuda.stacked_trainer import StackedTrainer
from modelzoo_datasets.engines.self_check import CHAIN_CASES, OTHER_CASES, CheckCase, find_deviation
from modelzoo_datasets.errors import DeviceError, FolderInUseError
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.verification.reproduction import _repeats_bits
from modelzoo_datasets.zoo import ZooFolder

CPU = torch.device("cpu")
GRADIENTS, EPOCH = (dataclasses.replace(case, trainings=case.trainings[:2]) for case in CHAIN_CASES)
INFO = DeviceInfo(
    name="Model T",
    capability="9.0",
    driver="600.1",
    package_version="0.1.0",
    torch_version="2.15.0",
    cupy_version="14.2.0",
    nvrtc_version="13.2",
    source="abc",
)


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    """Run on one thread; these tensors are too small for a second one."""
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process has checked."""
    monkeypatch.setattr(device_check, "_reasons", {})


# Engines that are right, and wrong


@pytest.mark.parametrize("cases", [2, pytest.param(3, marks=pytest.mark.slow)])  # the last one is a ResNet-18
def test_an_engine_that_is_right_passes(
    cases: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(device_check, "OTHER_CASES", OTHER_CASES[:cases])
    assert run_self_check(CudaEngine(CPU)) is None
    assert caplog.messages == [], "no lines about networks that nobody asked for"


@pytest.mark.parametrize("case", [*CHAIN_CASES, *OTHER_CASES[:2]], ids=lambda case: f"{case.architecture} {case.name}")
def test_no_result_of_the_check_hangs_by_a_hair(case: CheckCase) -> None:
    """Change all weights by ten times what rounding does, in several ways: no prediction and no sign of Adam flips."""
    jobs, updates = case.jobs(), []
    for number in range(6):
        changed = []
        for job in jobs:
            assert job.initial_weights is not None
            signs = torch.randint(3, job.initial_weights.shape, generator=keyed_generator(number, "signs")) - 1
            start = job.initial_weights * (1 + case.rounding * signs * (number > 0))
            changed.append(dataclasses.replace(job, initial_weights=start))
        ends: dict[int, Tensor] = {}
        engine: Engine = NativeEngine(1) if case in CHAIN_CASES else TorchEngine(1)
        for states in engine.train(case.architecture, case.images, changed, metrics_on=()):
            ends |= {int(states.jobs): states.weights[0]} if int(states.epochs) == 1 else {}
        pairs = zip(range(len(jobs)), changed, strict=True)
        updates.append(torch.stack([ends[i].double() - job.initial_weights.double() for i, job in pairs]))
    moved = torch.stack(updates[1:]) - updates[0]
    assert (moved.norm(dim=2) / updates[0].norm(dim=1)).max() < 4e-4


def round_to_tf32(x: Tensor) -> Tensor:
    """Return the values with 10 binary digits; gradients pass as if they were not rounded."""
    mantissa, exponent = torch.frexp(x.detach())
    return x + (torch.ldexp((mantissa * 2048).round() / 2048, exponent) - x.detach())


def test_products_in_tf32_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StackedModels.compute_objective

    def compute_objective(self: StackedModels, parameters: list[Tensor], buffers: Any, x: Tensor, *more: Any) -> Any:
        return whole(self, [round_to_tf32(p) for p in parameters], buffers, round_to_tf32(x), *more)

    monkeypatch.setattr(StackedModels, "compute_objective", compute_objective)
    assert find_deviation(CudaEngine(CPU), NativeEngine(1), [GRADIENTS]) is not None


def test_a_gradient_that_is_wrong_by_a_thousandth_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StackedTrainer._differentiate

    def differentiate(self: StackedTrainer, *arguments: Any) -> None:
        whole(self, *arguments)
        self._gradients[:, :200] *= 1.001

    monkeypatch.setattr(StackedTrainer, "_differentiate", differentiate)
    problem = find_deviation(CudaEngine(CPU), NativeEngine(1), [GRADIENTS])
    assert problem is not None
    start = "gradients of cnn-s (tanh, sgd, dropout 0): the change of the weights differs by "
    assert problem.startswith(start) and "of its size, and rounding explains" in problem


class BrokenEngine(TorchEngine):
    """The reference with one fault."""

    def __init__(
        self,
        *,
        states: Callable[[States], States | None] = lambda states: states,
        metrics: Callable[[SplitMetrics], SplitMetrics] = lambda metrics: metrics,
        logits: Callable[[Tensor], Tensor] = lambda logits: logits,
        training: Callable[[Training], Training] = lambda training: training,
    ) -> None:
        super().__init__(num_workers=1)
        self._change_states, self._change_metrics, self._change_logits = states, metrics, logits
        self._change_training = training

    def train(self, architecture: str, images: Any, jobs: Any, **options: Any) -> Generator[States]:
        jobs = [dataclasses.replace(job, training=self._change_training(job.training)) for job in jobs]
        for states in super().train(architecture, images, jobs, **options):
            if (changed := self._change_states(states)) is not None:
                yield changed

    def evaluate(self, *arguments: Any) -> SplitMetrics:
        return self._change_metrics(super().evaluate(*arguments))

    def compute_logits(self, *arguments: Any) -> Iterator[tuple[int, Tensor]]:
        return ((index, self._change_logits(logits)) for index, logits in super().compute_logits(*arguments))


def lose_last(states: States) -> States | None:
    return None if int(states.epochs) == 1 and int(states.jobs) == 1 else states


def spoil(states: States) -> States:
    weights = states.weights.clone()
    weights[:, 7] = torch.nan
    return states if int(states.epochs) == 0 else dataclasses.replace(states, weights=weights)


FAULTS: dict[str, tuple[BrokenEngine, str]] = {
    "start": (
        BrokenEngine(states=lambda s: dataclasses.replace(s, weights=s.weights * (1 + 1e-6))),
        "cnn-s: the weights before the first step are not those that were given",
    ),
    "nan": (BrokenEngine(states=spoil), "the change of the weights differs by nan of its size"),
    "training loss": (
        BrokenEngine(
            states=lambda s: dataclasses.replace(s, metrics={**s.metrics, "train_loss": s.metrics["train_loss"] + 1e-3})
        ),
        "the training loss differs by ",
    ),
    "rate": (
        BrokenEngine(training=lambda t: dataclasses.replace(t, lr=t.lr * 1.001)),
        "an epoch of cnn-s (tanh, adam, dropout 0.3): the training loss differs by ",
    ),
    "dropout": (
        BrokenEngine(training=lambda t: dataclasses.replace(t, dropout=t.dropout and t.dropout + 0.01)),
        "an epoch of cnn-s (tanh, adam, dropout 0.3): the training loss differs by ",
    ),
    "logits": (BrokenEngine(logits=lambda z: z * (1 + 1e-4)), "the largest logit differs by "),
    "nan logits": (BrokenEngine(logits=lambda z: z * torch.nan), "the largest logit differs by nan "),
    "loss": (
        BrokenEngine(metrics=lambda m: dataclasses.replace(m, loss=m.loss * (1 + 1e-3))),
        "the loss differs by 1.0e-03",
    ),
    "accuracy": (
        BrokenEngine(metrics=lambda m: dataclasses.replace(m, accuracy=m.accuracy + 1 / 20)),
        "the accuracy differs by 5.0e-02",
    ),
    "recall": (
        BrokenEngine(metrics=lambda m: dataclasses.replace(m, recall=m.recall.roll(1, dims=1))),
        "the recall differs by ",
    ),
    "nan recall": (
        BrokenEngine(metrics=lambda m: dataclasses.replace(m, recall=m.recall * torch.nan)),
        "the recall differs by inf",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_thing_is_found_and_named(fault: str) -> None:
    engine, told = FAULTS[fault]
    problem = find_deviation(engine, NativeEngine(1), [EPOCH])
    assert problem is not None and told in problem and "\n" not in problem


def test_a_lost_state_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="^cnn-s: no state of job 1 after epoch 1$"):
        find_deviation(BrokenEngine(states=lose_last), NativeEngine(1), [EPOCH])


@pytest.mark.gpu
def test_on_a_gpu_the_engine_passes() -> None:
    assert run_self_check(CudaEngine()) is None


# Results that are kept


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the check by answers of this list, the last first; a call without an answer fails the test."""
    answers: list[Any] = []

    def run(engine: Engine) -> str | None:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return None if answer is None else str(answer)

    monkeypatch.setattr(device_check, "run_self_check", run)
    return answers


def forget() -> None:
    """Go on as another process would."""
    device_check._reasons.clear()


def test_a_result_is_kept_for_this_device_alone(
    checks: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = CudaEngine(CPU)
    checks.append(None)
    assert explain_unsound(engine, INFO, tmp_path) is None
    assert explain_unsound(engine, INFO, tmp_path) is None
    forget()
    assert explain_unsound(engine, INFO, tmp_path) is None
    assert caplog.messages == [
        "engine 'cuda': first use on Model T, comparing it with other engines; this takes a minute"
    ]
    for field in dataclasses.fields(INFO):
        other = dataclasses.replace(INFO, **{field.name: "another"})
        checks.append("all is wrong")
        told = f"failed its self-check on {other.name}: all is wrong"
        assert explain_unsound(engine, other, tmp_path) == told and not checks
        forget()
        assert explain_unsound(engine, other, tmp_path) == told, "a failure is kept as well"
    assert len(list(tmp_path.iterdir())) == 1 + len(dataclasses.fields(INFO))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b'"failing"', b"null"),
        lambda content: content.replace(b"Model T", b"Model S"),
        lambda content: content[:-40],
        lambda content: b"",
        lambda content: b"[1]",
        lambda content: b"\xff" * 40,
    ],
)
def test_a_changed_result_is_not_believed(change: Callable[[bytes], bytes], checks: list[Any], tmp_path: Path) -> None:
    checks.append("failing")
    explain_unsound(CudaEngine(CPU), INFO, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    assert change(content) != content
    assert check_result(path) == "intact"
    path.write_bytes(change(content))
    assert check_result(path) == "damaged"
    forget()
    checks.append("failing")
    assert explain_unsound(CudaEngine(CPU), INFO, tmp_path) == "failed its self-check on Model T: failing"
    assert not checks and path.read_bytes() == content


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "OutOfMemoryError: CUDA out of memory. Tried"),
        (RuntimeError("no kernel image"), "RuntimeError: no kernel image"),
        (DeviceError("too little for one model"), "DeviceError: too little for one model"),
    ],
)
def test_a_check_that_cannot_run_is_told_and_not_kept(
    error: Exception, told: str, checks: list[Any], tmp_path: Path
) -> None:
    checks.append(error)
    assert explain_unsound(CudaEngine(CPU), INFO, tmp_path) == f"cannot run its self-check on Model T: {told}"
    assert explain_unsound(CudaEngine(CPU), INFO, tmp_path) is not None, "a process tries it once"
    assert not list(tmp_path.iterdir())
    forget()
    checks.append(None)
    assert explain_unsound(CudaEngine(CPU), INFO, tmp_path) is None


def test_without_a_cache_a_process_checks_once(checks: list[Any], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    checks.append(None)
    for _ in range(2):
        assert explain_unsound(CudaEngine(CPU), INFO, tmp_path / "cache") is None


def test_a_result_that_others_could_write_is_neither_read_nor_kept(checks: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    checks += ["failing", "failing", None]
    assert explain_unsound(CudaEngine(CPU), INFO, folder) is None
    (path,) = folder.iterdir()
    content = path.read_bytes()
    for open_folder in (folder, tmp_path / "other"):
        open_folder.mkdir(exist_ok=True)
        open_folder.chmod(0o777)
        forget()
        assert explain_unsound(CudaEngine(CPU), INFO, open_folder) == "failed its self-check on Model T: failing"
    assert path.read_bytes() == content and not list((tmp_path / "other").iterdir())


def test_a_kept_result_names_its_device(checks: list[Any], tmp_path: Path) -> None:
    checks.append(None)
    explain_unsound(CudaEngine(CPU), INFO, tmp_path)
    (path,) = tmp_path.iterdir()
    values = json.loads(path.read_text())
    assert values["device"] == dataclasses.asdict(INFO) and values["problem"] is None


def test_a_device_is_described_by_all_that_computes_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(device_check, "_find_driver_version", lambda: "600.1")
    monkeypatch.setattr(device_check, "find_compiler_versions", lambda: {"cupy": "14.2.0", "nvrtc": "13.2"})
    info = DeviceInfo.from_device(torch.device("cuda:1"))
    here = versions()
    own = {"package_version": here["modelzoo-datasets"], "torch_version": here["torch"], "source": hash_source()}
    assert info == dataclasses.replace(INFO, name="GPU cuda:1", **own)
    assert len(hash_source()) == 64


# Which engine is chosen


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let torch see a GPU, which nothing is run on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(DeviceInfo, "from_device", classmethod(lambda cls, device: INFO))
    monkeypatch.setattr(device_check, "user_cache_folder", lambda name: tmp_path / name)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("answer", ["weights are wrong", RuntimeError("no kernel image"), None], ids=str)
def test_auto_is_a_gpu_that_passes_and_else_the_next_engine_with_one_line(
    answer: Any, checks: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    checks.append(answer)
    engine = get_engine("auto", 1, gpu_share=0.5)
    if answer is None:
        assert isinstance(engine, CudaEngine) and engine.memory_share == 0.5 and not caplog.messages
        return
    assert isinstance(engine, NativeEngine)
    (line,) = caplog.messages
    verb = "cannot run" if isinstance(answer, Exception) else "failed"
    assert line.startswith(f"--engine auto is native here: engine 'cuda' {verb} its self-check on Model T: ")
    with pytest.raises(DeviceError, match=f"^engine 'cuda' {verb} its self-check on Model T: .*; use --engine native"):
        get_engine("cuda", 1)


@pytest.mark.usefixtures("gpu")
def test_an_engine_of_the_cpu_needs_no_check(checks: list[Any]) -> None:
    assert get_engine("native", 1).name == "native" and get_engine("torch", 1).name == "torch"


# What a zoo records


def test_only_a_gpu_adds_to_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in (NativeEngine(1), TorchEngine(1)):
        assert engine.environment("cnn-s") == versions()
    assert CudaEngine(CPU).environment("cnn-s") == {**versions(), "path": "stacked"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    engine = CudaEngine()
    monkeypatch.setattr(engine, "_has_kernel", lambda architecture: architecture == "cnn-s")
    monkeypatch.setattr(
        "modelzoo_datasets.engines.cuda.cuda_engine.find_compiler_versions", lambda: {"cupy": "14.2", "nvrtc": "13.2"}
    )
    kernel = {"gpu": "sm_90", "cupy": "14.2", "nvrtc": "13.2", "path": "kernel"}
    assert engine.environment("cnn-s") == {**versions(), **kernel}
    assert engine.environment("res-cnn") == {**versions(), "gpu": "sm_90", "path": "stacked"}


def test_a_zoo_of_another_path_is_not_resumed_nor_held_to_the_bit(tiny_recipe: Path, tmp_path: Path) -> None:
    class OtherPath(CudaEngine):
        def environment(self, architecture: str) -> dict[str, str]:
            return {**super().environment(architecture), "path": "kernel"}

    def train(engine: Engine, models: range) -> None:
        generate_zoo(f"{tiny_recipe}/seed", tmp_path / "zoo", engine=engine, models=models, images_root=tmp_path)

    train(CudaEngine(CPU), range(1, 2))
    with pytest.raises(FolderInUseError, match="holds another zoo: its path is 'stacked', not 'kernel'; "):
        train(OtherPath(CPU), range(1, 3))
    info = ZooFolder.open(tmp_path / "zoo").info
    target: Any = SimpleNamespace(info=info)
    assert info.versions == {**versions(), "path": "stacked"} and not _repeats_bits(target, CudaEngine(CPU))
    target.info = dataclasses.replace(info, engine="native", versions=versions())
    assert _repeats_bits(target, NativeEngine(1)) and not _repeats_bits(target, TorchEngine(1))


def test_a_job_of_the_check_has_weights_of_its_own() -> None:
    for case in (*CHAIN_CASES, *OTHER_CASES):
        for job in case.jobs():
            assert isinstance(job, Job) and job.initial_weights is not None and job.training.epochs == 1
