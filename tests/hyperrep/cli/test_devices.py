"""Where learning runs: devices by name, bfloat16 inside the transformers, compiled kernels, a GPU beside the CPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny_learning import recipe
from torch import Tensor

from hyperrep import HyperRepresentation, RepresentationConfig
from hyperrep.cli.hyperrep_command import find_device, resolve_precision
from hyperrep.recipe import HyperRecipe
from hyperrep.trainer.checkpoints import EpochMetrics
from hyperrep.trainer.functional_loss import Predictor
from hyperrep.trainer.loop import Precision, train_epochs
from hyperrep.trainer.losses import Learner
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import NetworkSpec, get_engine, make_batched_network
from modelzoo_datasets.errors import DeviceError
from modelzoo_datasets.seeds import keyed_generator

HERE = torch.device("cpu")
THERE = torch.device("cuda")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def fresh(chosen: HyperRecipe) -> HyperRepresentation:
    """An untrained hyper-representation of cnn-s, as the recipe says, of 28 states."""
    model = chosen.model
    sizes = {name: getattr(model, name) for name in ("width", "blocks", "heads", "feedforward", "pooled_dim")}
    shape = {"bottleneck": model.bottleneck, "latent": model.latent, "num_states": 28, "aligned": chosen.data.align}
    config = RepresentationConfig(architecture="cnn-s", activation="tanh", dropout=0.0, **sizes, **shape)
    rep = HyperRepresentation(config)
    rep.init_parameters(keyed_generator(0, "auto-encoder"))
    return rep


def states() -> Tensor:
    """28 models that were not trained."""
    return torch.randn(28, get_architecture("cnn-s").layout.size, generator=keyed_generator(0, "states")) / 5


def run(
    chosen: HyperRecipe,
    folder: Path,
    device: torch.device = HERE,
    engine: str | None = None,
    compiled: bool = False,
    precision: Precision = "float32",
) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    """Metrics and the trained state."""
    rep, queries = fresh(chosen).to(device), None
    if engine is not None:
        inputs = torch.randn(40, 1, 28, 28, generator=keyed_generator(0, "images"))
        queries = Predictor(make_batched_network(get_engine(engine, 1), "cnn-s", NetworkSpec("tanh", 0.0)), inputs)
    history = list(
        train_epochs(rep, states(), states()[:6], chosen, folder, queries, compiled=compiled, precision=precision)
    )
    return history, {name: tensor.cpu() for name, tensor in rep.state_dict().items()}


def assert_near(found: list[EpochMetrics], expected: list[EpochMetrics], bound: float) -> None:
    """Equal but for rounding, in all epochs."""
    assert [row.epoch for row in found] == [row.epoch for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert vars(one) == pytest.approx(vars(other), rel=bound, abs=bound)


@NO_GPU
def test_devices_are_found_by_name() -> None:
    assert find_device("auto") == find_device("cpu") == HERE
    with pytest.raises(DeviceError) as caught:
        find_device("cuda")
    assert str(caught.value) == "device 'cuda': torch sees no CUDA GPU here; use --device cpu"


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [("--device", "tpu", "'auto', 'cpu', 'cuda'"), ("--precision", "int8", "'auto', 'float32', 'bfloat16'")],
)
def test_an_unknown_device_or_precision_is_answered_with_the_known_ones(option: str, value: str, choices: str) -> None:
    program = "from hyperrep.cli.hyperrep_command import main; main()"
    words = [sys.executable, "-c", program, "train", "dataset", "--out", "hyperrep", option, value]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    told = rf"\S+: Invalid value for '{option}': .*'{value}' is not one of {choices}; see \S+ train --help\n"
    assert re.fullmatch(told, done.stderr)


@NO_GPU
def test_a_gpu_that_is_not_there_is_one_line_before_anything_is_written(tiny_dataset: Path, tmp_path: Path) -> None:
    program = "from hyperrep.cli.hyperrep_command import main; main()"
    command = [sys.executable, "-c", program, "train", str(tiny_dataset), "--out", "hyperrep", "--device", "cuda"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"\S+: device 'cuda': torch sees no CUDA GPU here; use --device cpu\n", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bottleneck", ["tokens", "dense"])
def test_with_half_only_the_transformers_multiply_in_bfloat16(bottleneck: str) -> None:
    rep = fresh(recipe(model={"bottleneck": bottleneck, "latent": 1.0 if bottleneck == "tokens" else 16}))
    seen: dict[str, torch.dtype] = {}
    for name, module in rep.named_modules():
        if isinstance(module, torch.nn.Linear) and ".self_attn" not in name:
            module.register_forward_hook(lambda m, given, out, name=name: seen.__setitem__(name, out.dtype))
    x = rep._normalize(states())
    z = rep._encode_normalized(x, bf16=True)
    decoded = rep._decode_normalized(z, bf16=True)
    assert {dtype for name, dtype in seen.items() if ".layers." in name} == {torch.bfloat16}
    assert {dtype for name, dtype in seen.items() if ".layers." not in name} == {torch.float32}
    expected = rep._encode_normalized(x)
    for found, whole in ((z, expected), (decoded, rep._decode_normalized(z))):
        assert found.dtype == torch.float32
        error = (found - whole).norm() / whole.norm()
        assert error < 2e-2
        assert bottleneck == "tokens" or error > 1e-5  # the linear path is all that there is at first
    decoded.square().mean().backward()
    assert {p.grad.dtype for p in rep.parameters() if p.grad is not None} == {torch.float32}


def test_networks_in_the_loss_are_computed_in_full_precision_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    whole = Predictor.compute_divergence

    def compute_divergence(self: Predictor, weights: Tensor, images: Tensor, target: Tensor) -> Tensor:
        seen.append(("there", torch.backends.cudnn.allow_tf32))
        weights.register_hook(lambda gradient: seen.append(("back", torch.backends.cudnn.allow_tf32)))
        return whole(self, weights, images, target)

    monkeypatch.setattr(Predictor, "compute_divergence", compute_divergence)
    before = torch.backends.cudnn.allow_tf32
    run(recipe(batch_size=14, epochs=1, functional_weight=1.0), tmp_path, engine="torch")
    assert before and torch.backends.cudnn.allow_tf32, "the choice of the process, as before"
    assert seen == [("there", False), ("back", False)] * 2


def test_a_learner_is_where_its_hyper_representation_is() -> None:
    rep = fresh(recipe()).to("meta")
    learner = Learner(fresh(recipe()), recipe(), states())
    assert {tensor.device for tensor in (*learner.parameters(), *learner.buffers())} == {HERE}
    assert rep.device == torch.device("meta")


def test_bfloat16_is_asked_for_by_name_and_never_chosen_on_a_cpu() -> None:
    names = ("auto", "float32", "bfloat16")
    found = {name: [resolve_precision(name, device) for device in (HERE, THERE)] for name in names}
    assert found == {"auto": ["float32", "bf16"], "float32": ["float32"] * 2, "bfloat16": ["bf16"] * 2}


def test_learning_in_bfloat16_differs_in_rounding_and_repeats_to_the_bit(tmp_path: Path) -> None:
    chosen = recipe(model={"bottleneck": "dense", "latent": 16}, batch_size=14)
    history, expected = run(chosen, tmp_path / "whole")
    found, state = run(chosen, tmp_path / "half", precision="bf16")
    assert_near(found, history, 3e-2)
    assert not torch.equal(state["embeddings"], expected["embeddings"])
    again, repeated = run(chosen, tmp_path / "again", precision="bf16")
    assert again == found
    assert all(torch.equal(repeated[name], tensor) for name, tensor in state.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch hides it from all but those who raise it
def test_compiled_learning_differs_in_rounding_alone_and_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    chosen = recipe(model={"bottleneck": "dense", "latent": 16}, batch_size=14, epochs=11)
    history, expected = run(chosen, tmp_path / "plain")
    found, state = run(chosen, tmp_path / "compiled", compiled=True)
    assert_near(found, history, 1e-3)
    assert set(state) == set(expected)
    again, resumed = run(chosen, tmp_path / "compiled")  # without compiling: the checkpoint is the same
    assert again[:-1] == found[:-1]
    assert_near(again, found, 1e-3)
    assert set(resumed) == set(state)


@pytest.mark.gpu
def test_on_a_gpu_the_same_numbers_are_drawn_and_all_is_learned_but_for_rounding(tmp_path: Path) -> None:
    augmented = recipe(
        model={"bottleneck": "dense", "latent": 16}, batch_size=14, erase_prob=0.5, noise_std=0.1, mixup=0.3
    )
    here, there = (
        run(augmented, tmp_path / d.type, d, precision="bf16" if d == THERE else "float32") for d in (HERE, THERE)
    )
    assert_near(there[0], here[0], 3e-2)
    again, state = run(augmented, tmp_path / "again", THERE, precision="bf16")
    assert again == there[0]
    assert all(torch.equal(state[name], tensor) for name, tensor in there[1].items())


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["native", "torch", "cuda"])
def test_on_a_gpu_networks_are_asked_by_every_engine(tmp_path: Path, engine: str) -> None:
    asking = recipe(
        model={"pooled_dim": 72},
        statistics=3.0,
        functional_weight=3.0,
        mixed_functional_weight=3.0,
        num_queries=8,
        permute="none",
        contrastive_weight=0.0,
    )
    here, there = (
        run(asking, tmp_path / "cpu", HERE, "torch"),
        run(asking, tmp_path / "gpu", THERE, engine, precision="bf16"),
    )
    assert_near(there[0], here[0], 3e-2)
