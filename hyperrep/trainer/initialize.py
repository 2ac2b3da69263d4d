"""Initialization of a hyper-representation: reference, mean and scales are fitted to its training states."""

import dataclasses
import logging

from modelzoo_datasets.errors import FormatError, RecipeError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights import Alignment, compute_layer_scales

from ..model import HyperRepresentation, RepresentationConfig
from ..recipe import HyperRecipe
from ..zoo_values import Ranking, read_column, read_first, read_network

_log = logging.getLogger(__name__)


def create_representation(recipe: HyperRecipe, zoo: Zoo) -> HyperRepresentation:
    """Return an untrained hyper-representation, fitted to training states.

    Args:
        recipe: sizes, alignment and seed.
        zoo: the training states.

    Raises:
        FormatError: weights that are not finite, models that were trained in different ways, or signs to be aligned
            where an activation is not odd.
        RecipeError: the number of layer weights is not the number of layers.
    """
    check_trainable(recipe, zoo)
    if recipe.data.align and not zoo.architecture.symmetry:
        _log.info("no unit of %s is known to be permutable: weights are learned as they are", zoo.architecture.name)
    rep = HyperRepresentation(_make_config(recipe, zoo))
    rep.init_parameters(keyed_generator(recipe.learning.seed, "auto-encoder"))
    rep.accuracy.copy_(Ranking.from_table(zoo.table).accuracy)
    rep._check_rows(zoo.weights, rep.layout.size, "weights per model")
    if recipe.data.align:
        alignment = Alignment.fit(zoo.weights, rep.layout, rep.symmetry, signs=rep.config.signs)
        rep.reference.copy_(alignment.reference)
    rep.scale.copy_(compute_layer_scales(zoo.weights, rep.layout))
    weights = rep.align(zoo.weights)
    rep.mean.copy_(weights.mean(dim=0))
    if rep.statistics is not None:
        rep.statistics.fit(weights)
    if rep.linear_path is not None:
        rep.linear_path.fit(rep.layout.to_tokens(rep._normalize(weights)))
    return rep


def check_trainable(recipe: HyperRecipe, zoo: Zoo) -> None:
    """Check that a recipe fits the training states; raises as `create_representation` does."""
    activations, layers = read_column(zoo.table, "activation").dropna().unique(), len(zoo.layout.layers)
    if recipe.data.signs and list(activations) not in (["tanh"], []):
        raise FormatError(
            f"recipe {recipe.name}: signs = true needs networks with tanh alone, the zoo has {', '.join(activations)}"
        )
    for field in dataclasses.fields(Training):
        if read_column(zoo.table, field.name).nunique() > 1:
            raise FormatError(
                f"recipe {recipe.name} needs models that were trained alike; config {recipe.data.config} has several "
                f"values of {field.name}"
            )
    if len(recipe.learning.layer_weights) not in (0, layers):
        raise RecipeError(
            f"recipe {recipe.name}: layer_weights needs one number for each of the {layers} layers of "
            f"{zoo.architecture.name}, got {len(recipe.learning.layer_weights)}"
        )


def _make_config(recipe: HyperRecipe, zoo: Zoo) -> RepresentationConfig:
    network = read_network(zoo)
    sizes = {name: value for name, value in vars(recipe.model).items() if name != "projection"}
    return RepresentationConfig(
        architecture=zoo.architecture.name,
        layout=zoo.architecture.layout,
        symmetry=zoo.architecture.symmetry,
        activation=network.activation,
        dropout=network.dropout,
        num_states=len(zoo.weights),
        aligned=recipe.data.align,
        signs=recipe.data.signs and read_first(zoo.table, "activation") is not None,
        ranked_by=Ranking.from_table(zoo.table).split,
        **sizes,
    )
