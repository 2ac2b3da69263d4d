"""Many models at once in one process, their weights stacked: what array libraries offer for it."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from live import Work
from rivals import ACTIVATION, LR, Case, endless_order, fresh_module, random_images
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import conv2d, cross_entropy, max_pool2d

from modelzoo_datasets.engines.chain import Stage, get_chain

JAX_MODELS = 8  # stacked; of 8 and 32 the faster


def together(case: Case) -> int:
    """How many models torch gets stacked: of 8 and 32 the faster (EPYC Zen 4, torch 2.15)."""
    return 8 if case.batch > 16 else 32


def _orders(case: Case, models: int) -> Callable[[], Tensor]:
    """The next indices (M, B); every model has its own order, as it has when it is trained alone."""
    orders = [endless_order(case, seed) for seed in range(models)]
    return lambda: torch.stack([next(order) for order in orders])


def vmap_grad(case: Case) -> Work:
    """`torch.func`: vmap of the gradient of a functional call, then fused Adam on the stacked weights."""
    images, models = random_images(case), together(case)
    inputs, labels, following = images.inputs("train"), images.labels("train"), _orders(case, models)
    modules = [fresh_module(case.architecture, seed) for seed in range(models)]
    stacked, _ = stack_module_state(modules)  # type: ignore[arg-type]
    skeleton = fresh_module(case.architecture, 0).to("meta")

    def loss(weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(skeleton, dict(weights), (x,)), y)

    gradients = vmap(grad(loss))
    optimizer = torch.optim.Adam(stacked.values(), lr=LR, fused=True)

    def work(steps: int) -> int:
        rounds = -(-steps // models)
        for _ in range(rounds):
            index = following()
            found = gradients({name: w.detach() for name, w in stacked.items()}, inputs[index], labels[index])
            for name, weights in stacked.items():
                weights.grad = found[name]
            optimizer.step()
        return rounds * models

    return work


def compiled_groups(case: Case) -> Work:
    """One grouped convolution per layer, a group per model, through torch.compile; fused Adam."""
    following = _orders(case, together(case))
    return _compiled(case, lambda: following().mT)


def compiled_groups_shared(case: Case) -> Work:
    """The same with one order of images for all models: less to gather, and another experiment."""
    order = endless_order(case, 0)
    return _compiled(case, lambda: next(order).unsqueeze(1))


def _compiled(case: Case, following: Callable[[], Tensor]) -> Work:
    """`following` gives indices (B, 1 or M)."""
    importlib.import_module("torch._inductor.config").compile_threads = 1  # no processes beside this one
    images, stages = random_images(case), get_chain(case.architecture, ACTIVATION, 0.0)
    inputs, labels, models = images.inputs("train"), images.labels("train"), together(case)
    modules = [fresh_module(case.architecture, seed) for seed in range(models)]
    weights = [nn.Parameter(torch.stack(same)) for same in zip(*(list(m.parameters()) for m in modules), strict=True)]
    optimizer = torch.optim.Adam(weights, lr=LR, fused=True)

    @torch.compile
    def loss(weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = _stacked_logits(stages, weights, x)  # (M, B, classes)
        y = y.mT.expand(logits.shape[:2])
        return cross_entropy(logits.flatten(0, 1), y.flatten()) * models  # the sum of the models' own mean losses

    def work(steps: int) -> int:
        rounds = -(-steps // models)
        for _ in range(rounds):
            index = following()
            x = inputs[index.flatten()].view(len(index), index.shape[1] * inputs.shape[1], *inputs.shape[2:])
            optimizer.zero_grad()
            loss(weights, x, labels[index]).backward()
            optimizer.step()
        return rounds * models

    return work


def _stacked_logits(stages: Sequence[Stage], weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Images (B, C, H, W) that all M models get, or (B, M * C, H, W) with its own for each: logits (M, B, classes)."""
    left, models = iter(weights), len(weights[0])
    flat = False
    for stage in stages:
        weight, bias = islice(left, 2)  # (M, O, ...), (M, O)
        if stage.linear:
            x = x if flat else x.unflatten(1, (models, -1)).flatten(2).transpose(0, 1)
            flat = True
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
        else:
            groups = 1 if x.shape[1] == stage.input_shape[0] else models
            x = conv2d(x, weight.flatten(0, 1), bias.flatten(), groups=groups)
        x = max_pool2d(x, 2) if stage.pool else x
        x = torch.tanh(x) if stage.activation is not None else x
    return x


def jax_vmap(case: Case) -> Work:
    """JAX: jit of vmap of one model's step, channels last, Adam written out."""
    jax = importlib.import_module("jax")
    jnp, images = jax.numpy, random_images(case)
    inputs, labels = images.inputs("train").permute(0, 2, 3, 1).contiguous().numpy(), images.labels("train").numpy()
    modules, following = [fresh_module(case.architecture, s) for s in range(JAX_MODELS)], _orders(case, JAX_MODELS)
    weights = [
        jnp.asarray(np.stack([_as_jax(p.detach().numpy()) for p in same]))
        for same in zip(*(list(module.parameters()) for module in modules), strict=True)
    ]
    zeros = [jnp.zeros_like(w) for w in weights]
    state = (weights, zeros, zeros, jnp.zeros(JAX_MODELS))
    stepped = jax.jit(jax.vmap(_jax_step(jax, get_chain(case.architecture, ACTIVATION, 0.0))))

    def work(steps: int) -> int:
        nonlocal state
        rounds = -(-steps // JAX_MODELS)
        for _ in range(rounds):
            index = following().numpy()
            state = stepped(state, inputs[index], labels[index])
        jax.block_until_ready(state)
        return rounds * JAX_MODELS

    return work


def _as_jax(weights: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Convolutions as (H, W, C, O), linear layers as (C, O)."""
    return weights.transpose(2, 3, 1, 0) if weights.ndim == 4 else weights.T


def _jax_step(jax: Any, stages: Sequence[Stage]) -> Callable[[Any, Any, Any], Any]:
    """One step of one model: state, images, labels -> state."""
    jnp = jax.numpy

    def loss(weights: Any, x: Any, y: Any) -> Any:
        logits = _jax_logits(jax, stages, weights, x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()

    def step(state: Any, x: Any, y: Any) -> Any:
        weights, means, squares, count = state
        count, found = count + 1, jax.grad(loss)(weights, x, y)
        means = [0.9 * m + 0.1 * g for m, g in zip(means, found, strict=True)]
        squares = [0.999 * s + 0.001 * g * g for s, g in zip(squares, found, strict=True)]
        rate, size = LR / (1 - 0.9**count), 1 - 0.999**count
        moved = [w - rate * m / (jnp.sqrt(s / size) + 1e-8) for w, m, s in zip(weights, means, squares, strict=True)]
        return moved, means, squares, count

    return step


def _jax_logits(jax: Any, stages: Sequence[Stage], weights: Sequence[Any], x: Any) -> Any:
    """Images (B, H, W, C) -> logits (B, classes)."""
    left = iter(weights)
    for stage in stages:
        weight, bias = islice(left, 2)
        if stage.linear:
            x = x.transpose(0, 3, 1, 2).reshape(len(x), -1) if x.ndim == 4 else x
            x = x @ weight + bias
        else:
            kinds = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=kinds) + bias
        x = _jax_pooled(x) if stage.pool else x
        x = jax.numpy.tanh(x) if stage.activation is not None else x
    return x


def _jax_pooled(x: Any) -> Any:
    """2x2 max-pooling by reshaping: with `reduce_window` a step takes 1.7 times as long."""
    images, height, width, channels = x.shape
    height, width = height // 2, width // 2
    return x[:, : 2 * height, : 2 * width].reshape(images, height, 2, width, 2, channels).max((2, 4))
