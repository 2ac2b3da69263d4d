"""The random numbers of the native kernels are those of torch's CPU generator."""

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import modelzoo_datasets
from modelzoo_datasets.architectures.modules import SeededDropout
from modelzoo_datasets.seeds import derive_seed

KERNEL = Path(modelzoo_datasets.__file__).parent / "engines" / "native" / "kernel"
HARNESS = """
#include "random.hpp"
using zoo::TorchGenerator;
extern "C" {
TorchGenerator* made(uint64_t seed) { return new TorchGenerator(seed); }
void freed(TorchGenerator* g) { delete g; }
void uniforms(TorchGenerator* g, float* out, size_t n) { g->uniforms(out, n); }
void normals(TorchGenerator* g, float* out, size_t n) { g->normals(out, n); }
void keep_mask(TorchGenerator* g, uint8_t* out, size_t n, float p) { g->keep_mask(out, n, p); }
uint32_t next_word(TorchGenerator* g) { return g->next_word(); }
}
"""
FLAGS = {
    "portable": [],
    "this machine's": ["-march=native"],
}  # without and, if possible, with fused multiply-add
SEEDS = (0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 17, 2**63 - 1, derive_seed(3, "noise", 1))
# Lengths around blocks of 16, the 624 words of a state and the 2048 normal numbers of a piece; and activations.
LENGTHS = (*range(71), 396, 397, 398, 623, 624, 625, 1247, 1248, 1249, 2047, 2048, 2049, 2065, 4608 * 10)
# With AVX2 torch uses its own float polynomials; elsewhere it computes angles in double precision, and its results
# differ by up to 2.4e-6.
ALIKE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
NORMALS_APART = 1.5e-6 if ALIKE else 4e-6


class Native:
    """A `TorchGenerator` of the compiled header."""

    def __init__(self, library: ctypes.CDLL, seed: int) -> None:
        self._library = library
        self._made = ctypes.c_void_p(library.made(ctypes.c_uint64(seed)))

    def __del__(self) -> None:
        self._library.freed(self._made)

    def uniforms(self, n: int) -> torch.Tensor:
        return self._drawn(self._library.uniforms, np.zeros(n + 1, np.float32))

    def normals(self, n: int) -> torch.Tensor:
        return self._drawn(self._library.normals, np.zeros(n + 1, np.float32))

    def keep_mask(self, n: int, p: float) -> torch.Tensor:
        return self._drawn(self._library.keep_mask, np.zeros(n + 1, np.uint8), ctypes.c_float(p))

    def next_word(self) -> int:
        return int(self._library.next_word(self._made))

    def _drawn(self, draw: Any, out: np.ndarray[Any, Any], *settings: Any) -> torch.Tensor:
        out[-1] = 7
        draw(self._made, ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t(len(out) - 1), *settings)
        assert out[-1] == 7, "written beyond the end"
        return torch.from_numpy(out[:-1])


Make = Callable[[int], Native]  # makes a generator from a seed


@pytest.fixture(scope="module", params=list(FLAGS.values()), ids=list(FLAGS))
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Compile the header with the flags of the kernels."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("random")
    source, shared = folder / "harness.cpp", folder / "harness.so"
    source.write_text(HARNESS)
    flags = ["-std=c++17", "-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, *request.param, "-I", KERNEL, source, "-o", shared], check=True)
    library = ctypes.CDLL(str(shared))
    library.made.restype = ctypes.c_void_p
    library.next_word.restype = ctypes.c_uint32
    return lambda seed: Native(library, seed)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=NORMALS_APART)


@pytest.mark.parametrize("seed", SEEDS)
def test_uniforms_are_those_of_torch_to_the_bit(native: Make, seed: int) -> None:
    ours, theirs = native(seed), seeded(seed)
    for n in LENGTHS:  # one after the other, so that calls begin at all places between two twists
        assert torch.equal(ours.uniforms(n), torch.rand(n, generator=theirs)), n


@pytest.mark.parametrize("n", LENGTHS)
def test_a_first_call_of_any_length_draws_what_torch_draws(native: Make, n: int) -> None:
    ours, theirs = native(5), seeded(5)
    assert_near(ours.normals(n), torch.randn(n, generator=theirs))
    assert torch.equal(ours.uniforms(20), torch.rand(20, generator=theirs))  # the same number of words has been used


@pytest.mark.parametrize("seed", SEEDS)
def test_normals_are_those_of_torch(native: Make, seed: int) -> None:
    ours, theirs = native(seed), seeded(seed)
    for n in LENGTHS:
        assert_near(ours.normals(n), torch.randn(n, generator=theirs))


def test_fewer_than_16_normals_are_those_of_torch_within_a_bit(native: Make) -> None:
    ours, theirs = native(11), seeded(11)
    for n in [*range(16), *range(15, 0, -1)] * 20:
        torch.testing.assert_close(ours.normals(n), torch.randn(n, generator=theirs), rtol=1.2e-7, atol=0)


@pytest.mark.parametrize("between", ["nothing", "normals", "uniforms", "mask"])
def test_the_spare_normal_outlives_other_draws(native: Make, between: str) -> None:
    ours, theirs = native(12), seeded(12)
    assert_near(ours.normals(3), torch.randn(3, generator=theirs))  # from two pairs
    if between == "normals":
        assert_near(ours.normals(40), torch.randn(40, generator=theirs))
    elif between == "uniforms":
        assert torch.equal(ours.uniforms(5), torch.rand(5, generator=theirs))
    elif between == "mask":
        assert torch.equal(ours.keep_mask(5, 0.5).bool(), torch.rand(5, generator=theirs) >= 0.5)
    assert_near(ours.normals(4), torch.randn(4, generator=theirs))


def test_draws_of_all_kinds_in_any_order_go_on_with_one_stream(native: Make) -> None:
    ours, theirs = native(13), seeded(13)
    kinds, order = ("uniforms", "normals", "mask", "word"), np.random.default_rng(0)
    for kind, n in itertools.product(order.choice(kinds, 60), order.integers(0, 700, 5).tolist()):
        if kind == "uniforms":
            assert torch.equal(ours.uniforms(n), torch.rand(n, generator=theirs))
        elif kind == "normals":
            assert_near(ours.normals(n % 40), torch.randn(n % 40, generator=theirs))
        elif kind == "mask":
            assert torch.equal(ours.keep_mask(n, 0.3).bool(), torch.rand(n, generator=theirs) >= 0.3)
        else:
            assert ours.next_word() % 2**24 == torch.rand(1, generator=theirs).item() * 2**24


def test_normals_of_a_layer_are_those_of_its_shape(native: Make) -> None:
    ours, theirs = native(14), seeded(14)
    for shape in ((7, 3, 5, 5), (1, 10), (4, 16, 2, 2), (3, 5)):
        wanted = torch.randn(shape, generator=theirs)
        assert_near(ours.normals(wanted.numel()).view(shape), wanted)


@pytest.mark.parametrize("p", [0.0, 2**-24, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1 - 2**-24, 1.0])
def test_a_mask_is_that_of_torch(native: Make, p: float) -> None:
    ours, theirs = native(15), seeded(15)
    for n in (1, 17, 623, 624, 625, 46080):
        wanted = torch.rand(n, generator=theirs) >= p
        assert torch.equal(ours.keep_mask(n, p), wanted.to(torch.uint8))


def test_a_number_that_is_exactly_p_is_kept(native: Make) -> None:
    drawn = torch.rand(50, generator=seeded(16))
    for p, kept in ((drawn, 1), (torch.nextafter(drawn, torch.tensor(2.0)), 0)):
        masks = [native(16).keep_mask(50, limit)[i].item() for i, limit in enumerate(p.tolist())]
        assert masks == [kept] * 50


def test_masks_are_those_of_dropout_layers(native: Make) -> None:
    layer = SeededDropout(0.1).train()
    layer.generator, ours = seeded(17), native(17)
    for shape in ((7, 8, 6, 6), (7, 30)):
        kept = layer(torch.ones(shape)) != 0
        assert torch.equal(ours.keep_mask(kept.numel(), layer.p).bool().view(shape), kept)


def test_normals_are_on_average_a_fraction_of_a_rounding_away(native: Make) -> None:
    ours, theirs = native(19).normals(1_000_000), torch.randn(1_000_000, generator=seeded(19))
    assert_near(ours, theirs)
    assert (ours - theirs).abs().mean() < (2.5e-8 if ALIKE else 1.2e-7)


def test_moments_of_normals(native: Make) -> None:
    n = 1_000_000
    x = native(18).normals(n).double()
    # The k-th moment of n normal numbers has the variance (E x^2k - (E x^k)²) / n.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean().item() - moment) < 5 * (variance / n) ** 0.5
    assert abs((x[:-1] * x[1:]).mean().item()) < 5 / n**0.5
    # The two numbers of a pair are not correlated.
    assert abs((x.view(-1, 2, 8)[:, 0] * x.view(-1, 2, 8)[:, 1]).mean().item()) < 5 * 2**0.5 / n**0.5
