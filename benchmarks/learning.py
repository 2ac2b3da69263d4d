"""How fast a hyper-representation learns: us, and the published way of doing it, taking turns in one run.

    python benchmarks/learning.py      prints Markdown; two minutes

Everything runs on one thread, in processes that live as long as their table is measured. Models are of equal size, in
the published setting: dense bottleneck, both views permuted, erased and decoded, a little contrast.
"""

import argparse
import importlib
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import published
import torch
from live import Rival, Team, Work
from tables import markdown, measured, ratio, report
from torch import Tensor
from torch.utils.data import DataLoader

from hyperrep import HyperRepresentation, RepresentationConfig
from hyperrep.recipe import DataRecipe, EvaluationRecipe, HyperRecipe, LearningRecipe, ModelRecipe
from hyperrep.trainer.loop import Precision, train_epochs
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.seeds import keyed_generator

ARCHITECTURE = "cnn-s"
HEADS, PROJECTION = 4, 64
SIDE = 1_024  # of the square matrices whose product is the peak
COLUMNS = (
    "rival",
    "states/s",
    "states/s of CPU time",
    "x published (min to max)",
    "x published by CPU",
    "% of the matmul peak",
    "MB",
)


@dataclass(frozen=True)
class Case:
    """One table: how large the auto-encoder is."""

    blocks: int
    width: int = 128
    latent: int = 128
    batch: int = 64
    batches: int = 4  # in an epoch

    def __str__(self) -> str:
        return f"{self.blocks} block{'s' * (self.blocks > 1)}, width {self.width}, latent {self.latent}"

    @property
    def recipe(self) -> HyperRecipe:
        """The published setting, without end."""
        sizes = {"width": self.width, "blocks": self.blocks, "heads": HEADS, "feedforward": 4 * self.width}
        model = ModelRecipe(**sizes, bottleneck="dense", latent=self.latent, projection=PROJECTION, center=False)
        how = LearningRecipe(epochs=10**6, batch_size=self.batch, lr=3e-4, weight_decay=3e-5, erase_prob=0.5)
        data = DataRecipe(config="random", epochs=(0, 0), align=False)
        return HyperRecipe(name="published", data=data, model=model, learning=how, evaluation=EvaluationRecipe())

    @property
    def states(self) -> Tensor:
        """Weights without any meaning (N, P): no rival's speed depends on them."""
        size = get_architecture(ARCHITECTURE).layout.size
        return torch.randn(self.batch * self.batches, size, generator=keyed_generator(0, "states"))


def untrained(case: Case) -> HyperRepresentation:
    """Ours, of that size."""
    model = case.recipe.model
    config = RepresentationConfig(
        architecture=ARCHITECTURE,
        activation="tanh",
        dropout=0.0,
        width=model.width,
        blocks=model.blocks,
        heads=model.heads,
        feedforward=model.feedforward,
        bottleneck=model.bottleneck,
        latent=model.latent,
        num_states=len(case.states),
        aligned=False,
        center=False,
    )
    rep = HyperRepresentation(config)
    rep.init_parameters(keyed_generator(0, "auto-encoder"))
    return rep


def ours(case: Case, *, compiled: bool = False, precision: Precision = "float32") -> Work:
    """`learn`, the loop that the command runs, with one state of validation; checkpoints are written too."""
    rep, states = untrained(case), case.states
    folder = tempfile.TemporaryDirectory()
    epochs = train_epochs(
        rep, states, states[:1], case.recipe, Path(folder.name), compiled=compiled, precision=precision
    )

    def work(wanted: int) -> int:
        count = -(-wanted // len(states))
        assert folder and len(list(islice(epochs, count))) == count
        return count * len(states)

    return work


def ours_in_half(case: Case) -> Work:
    """The same with --precision bfloat16."""
    return ours(case, precision="bf16")


def ours_compiled(case: Case) -> Work:
    """The same with --compile."""
    importlib.import_module("torch._inductor.config").compile_threads = 1  # no processes beside this one
    return ours(case, compiled=True)


def as_published(case: Case) -> Work:
    """The same size, with loops, lists and a DataLoader."""
    architecture, recipe, states = get_architecture(ARCHITECTURE), case.recipe, case.states
    model, head = published_model(case), published.projection_head(case.latent, PROJECTION)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-4, weight_decay=3e-5)
    of_weight = architecture.layout.layer_of_weight()
    layers = [(torch.nonzero(of_weight == layer).squeeze(1), 1.0) for layer in of_weight.unique().tolist()]
    how = recipe.learning
    views = published.Views(states, architecture.symmetry, how.erase_prob)
    loader = DataLoader(views, case.batch, shuffle=True, drop_last=True)

    def work(wanted: int) -> int:
        count = -(-wanted // len(states))
        for _ in range(count):
            for batch in loader:
                optimizer.zero_grad()
                published.loss_of(model, head, batch, layers, how.contrastive_weight, how.temperature).backward()
                optimizer.step()
        return count * len(states)

    return work


def published_model(case: Case) -> published.Published:
    """Of the size of ours."""
    sizes = {"width": case.width, "blocks": case.blocks, "feedforward": 4 * case.width, "latent": case.latent}
    return published.Published(get_architecture(ARCHITECTURE).layout, heads=HEADS, **sizes)


def products(case: Case) -> Work:
    """What this machine multiplies on one thread: products of large float32 matrices, counted in operations."""
    a, b = (torch.randn(SIDE, SIDE, generator=keyed_generator(0, name)) for name in ("a", "b"))
    out = torch.empty(SIDE, SIDE)

    def work(wanted: int) -> int:
        count = -(-wanted // (2 * SIDE**3))
        for _ in range(count):
            torch.mm(a, b, out=out)
        return count * 2 * SIDE**3

    return work


def flops_of_a_state(case: Case) -> int:
    """Of all matrix products, forwards and backwards, that one state of a batch asks for: it has two views.

    A product costs as much again for the gradient of each of its two factors; the weights that go in need none.
    """
    layers = get_architecture(ARCHITECTURE).layout.layers
    tokens, width = sum(layer.units for layer in layers), case.width
    linear = 4 * width**2 + 2 * width * 4 * width  # of a token: query, key, value, out, and two of the feedforward part
    attention = 2 * tokens * width  # of a token: scores, and what they weigh
    blocks = 2 * case.blocks * tokens * (linear + attention)
    bottleneck = 2 * tokens * width * case.latent
    head = case.latent * PROJECTION + PROJECTION**2
    similarity = 2 * case.batch * PROJECTION
    ends = sum(layer.units * layer.width for layer in layers) * width  # embedders, and again debedders
    return 2 * 2 * (3 * (blocks + bottleneck + head + similarity + ends) + 2 * ends)


RIVALS: dict[str, Rival[Case]] = {
    "published": Rival("as published, written anew", as_published),
    "peak": Rival("matrix products", products),
    "ours": Rival("**ours**", ours),
    "half": Rival("**ours**, `--precision bfloat16`", ours_in_half),
    "compiled": Rival("**ours**, `--compile`", ours_compiled),
}


def cells(team: Team, teams: Mapping[str, Team], case: Case) -> list[str]:
    """One line: medians over the rounds, ratios within a round."""
    rate, cpu_rate = (statistics.median(getattr(turn, name) for turn in team.turns) for name in ("rate", "cpu_rate"))
    pairs = zip(team.turns, teams["peak"].turns, strict=True)
    share = statistics.median(flops_of_a_state(case) * mine.cpu_rate / peak.cpu_rate for mine, peak in pairs)
    base = teams["published"]
    return [
        *(team.label, f"{rate:,.0f}", f"{cpu_rate:,.0f}"),
        *(ratio(team.turns, base, spread=True), ratio(team.turns, base, by_cpu=True)),
        *(f"{100 * share:.1f}", f"{team.megabytes:,.0f}"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one rival in one round")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2], help="of encoder and decoder, a table each")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile too: a minute more a table")
    parser.add_argument("--quick", action="store_true", help="least work, to see that it runs")
    options = parser.parse_args()
    vars(options).update(cores=1)
    if options.quick:
        vars(options).update(rounds=1, seconds=0.05, blocks=[1])
    small = {"width": 16, "latent": 8, "batch": 8, "batches": 1} if options.quick else {}
    rivals = {name: rival for name, rival in RIVALS.items() if name != "compiled" or options.compile}
    with report(1, options.rounds):
        for case in [Case(blocks, **small) for blocks in options.blocks]:
            teams = measured(rivals, case, options)
            lines = [cells(team, teams, case) for name, team in teams.items() if name != "peak"]
            print(
                f"\n{case}: {flops_of_a_state(case) / 1e6:,.0f} MFLOP a state\n\n{markdown(COLUMNS, lines)}", flush=True
            )
            peak = statistics.median(turn.cpu_rate for turn in teams["peak"].turns)
            print(f"\nmatrix products: {peak / 1e9:.0f} GFLOP/s float32")


if __name__ == "__main__":
    main()
