"""Answers to probe images against the modules themselves, and the noise images bit for bit."""

import hashlib

import numpy as np
import pytest
import torch
from helpers.networks import random_states

from modelzoo_datasets.analysis import compute_answers, make_noise_images
from modelzoo_datasets.architectures import cnn_s
from modelzoo_datasets.engines import Engine, NetworkSpec, get_engine
from modelzoo_datasets.errors import ArgumentError
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights import permute_units, sample_permutations

HASHES = {
    (1, 28, 28): "e17843f6690d07645cfd3a521e14434c5dc1683bbe09b2e2cbf8d6f6ef06c71e",
    (3, 32, 32): "9e3a5134d0fcef6beb74bad5f73331260f296b85c5cda039bb56dbb8ab98fa78",
}


@pytest.mark.parametrize("shape", HASHES)
def test_noise_images_are_the_same_everywhere(shape: tuple[int, int, int]) -> None:
    pixels = make_noise_images(shape, 10).splits["train"].pixels
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (128, *shape))
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == HASHES[shape]
    assert torch.equal(make_noise_images(shape, 10, num_images=5).splits["train"].pixels, pixels[:5])


def test_a_noise_image_is_a_small_random_grid_enlarged_by_bilinear_interpolation() -> None:
    for number, side in enumerate((2, 3, 5, 8, 2)):
        found = make_noise_images((2, 9, 13), 10, num_images=5).splits["train"].pixels[number].numpy()
        grid = torch.randint(256, (2, side, side), generator=keyed_generator(0, "probe image", number)).numpy()
        slow = np.empty((2, 9, 13))
        for c, y, x in np.ndindex(2, 9, 13):
            rows = [np.interp(x * (side - 1) / 12, range(side), grid[c, row]) for row in range(side)]
            slow[c, y, x] = np.interp(y * (side - 1) / 8, range(side), rows)
        slow = (slow - slow.min()) / (slow.max() - slow.min()) * 255
        assert np.abs(found - slow).max() < 1.001 and (found.min(), found.max()) == (0, 255)


def test_noise_images_of_one_pixel_do_not_divide_by_zero() -> None:
    assert make_noise_images((1, 1, 1), 2, num_images=2).splits["train"].pixels.tolist() == [[[[0]]], [[[0]]]]


def test_noise_is_normalized_as_the_images_of_the_networks() -> None:
    images = make_noise_images((3, 8, 8), 10, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), num_images=2)
    pixel = images.splits["train"].pixels[1, 2, 4, 5] / 255
    assert float(images.inputs("train")[1, 2, 4, 5]) == pytest.approx(float((pixel - 0.3) / 0.7))
    gray = make_noise_images((3, 8, 8), 10, num_images=2)
    assert float(gray.inputs("train")[1, 2, 4, 5]) == pytest.approx(float((pixel - 0.5) / 0.5))


@pytest.mark.parametrize("name", ["torch", "native"])
def test_answers_are_log_shares_of_the_module_of_each_network(name: str) -> None:
    weights = random_states("cnn-s", 3)
    networks = [NetworkSpec("tanh"), NetworkSpec("relu"), NetworkSpec("relu", 0.2)]
    images = make_noise_images(cnn_s.input_shape, cnn_s.classes, num_images=6)
    engine: Engine = get_engine(name, num_threads=1)
    answers = compute_answers(weights, "cnn-s", networks, images, engine=engine)
    assert tuple(answers.shape) == (3, 60)
    for row, vector, network in zip(answers, weights, networks, strict=True):
        module = cnn_s.module(network.activation)
        cnn_s.fill_module(module, vector)
        with torch.no_grad():
            expected = module.eval()(images.inputs("train")).softmax(dim=1).log()
        torch.testing.assert_close(row.view(6, 10), expected, rtol=1e-4, atol=1e-4)


def test_permuted_copies_have_the_same_answers_and_broken_networks_know_nothing(engine: Engine) -> None:
    first, second = random_states("cnn-s", 2)
    orders = sample_permutations(cnn_s.symmetry, 1, keyed_generator(0, "orders"))
    copy = permute_units(first.unsqueeze(0), cnn_s.symmetry, orders)[0]
    second[0] = float("nan")
    images = make_noise_images(cnn_s.input_shape, cnn_s.classes, num_images=3)
    answers = compute_answers(
        torch.stack([first, copy, second]), "cnn-s", [NetworkSpec("tanh")] * 3, images, engine=engine
    )
    assert not torch.equal(first, copy)
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4)
    assert answers[2].tolist() == pytest.approx([np.log(0.1)] * 30)


def test_a_network_without_an_activation_is_refused(engine: Engine) -> None:
    images = make_noise_images(cnn_s.input_shape, cnn_s.classes, num_images=3)
    with pytest.raises(ArgumentError) as caught:
        compute_answers(random_states("cnn-s", 2), "cnn-s", [NetworkSpec("tanh")], images, engine=engine)
    assert str(caught.value) == "expected a NetworkSpec for each of 2 networks, got 1"
