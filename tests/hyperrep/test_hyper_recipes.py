"""Recipes of hyper-representations: all that ship can be read, and every mistake is answered word by word."""

import dataclasses
import re
from pathlib import Path

import pytest
from helpers.tiny_learning import TINY_TOML

from hyperrep import HyperRepresentation, RepresentationConfig, read_hyper_recipe
from hyperrep.recipe import HyperRecipe, LearningRecipe
from modelzoo_datasets.errors import FormatError, RecipeError
from modelzoo_datasets.recipes import recipe_names


@pytest.mark.parametrize("name", recipe_names("hyperrep"))
def test_every_shipped_recipe_is_read_and_makes_an_auto_encoder(name: str) -> None:
    recipe = read_hyper_recipe(name)
    model = recipe.model
    config = RepresentationConfig(
        architecture="cnn-s",
        activation="tanh",
        dropout=0.0,
        width=model.width,
        blocks=model.blocks,
        heads=model.heads,
        feedforward=model.feedforward,
        bottleneck=model.bottleneck,
        latent=model.latent,
        num_states=1,
    )
    rep = HyperRepresentation(config)
    assert recipe.name == name
    assert 0 < rep.latent_dim < rep.layout.size
    assert recipe.data.epochs[0] <= recipe.data.epochs[1]
    assert len(recipe.learning.layer_weights) in (0, len(rep.layout.layers))
    assert 0 < recipe.evaluation.top_fraction <= 1


def test_there_is_a_recipe_for_the_demo() -> None:
    assert "demo" in recipe_names("hyperrep")


def written(folder: Path, text: str) -> str:
    """Path of a recipe file."""
    path = folder / "tiny.toml"
    path.write_text(text)
    return str(path)


def test_what_a_file_does_not_say_has_its_default(tmp_path: Path) -> None:
    recipe = read_hyper_recipe(written(tmp_path, TINY_TOML + "layer_weights = [1, 2, 1, 1, 3]\n"))
    expected = LearningRecipe(epochs=3, batch_size=8, lr=1e-3, weight_decay=1e-2, layer_weights=(1, 2, 1, 1, 3))
    assert recipe.name == "tiny"
    assert recipe.learning == expected
    assert recipe.data.epochs == (1, 2)
    assert recipe.evaluation.bandwidth == 0.002


MISTAKES = {
    "a section that is not known": (
        TINY_TOML + "[learn]\nlr = 1\n",
        "a hyper-representation recipe has no key 'learn'; did you mean 'learning'?",
    ),
    "a key that is nearly known": (
        TINY_TOML.replace("batch_size", "batchsize"),
        "[learning] has no key 'batchsize'; did you mean 'batch_size'?",
    ),
    "a key of nowhere": (
        TINY_TOML.replace("config =", "zzz = 1\nconfig ="),
        "[data] has no key 'zzz'; known: config, epochs, align, signs",
    ),
    "missing keys": (
        TINY_TOML.replace("width = 16\n", "").replace("heads = 2\n", ""),
        "[model] misses width, heads",
    ),
    "a missing section": (
        TINY_TOML.replace('[data]\nconfig = "seed"\nepochs = [1, 2]\n', ""),
        "[data] misses config, epochs",
    ),
    "a bottleneck of nowhere": (
        TINY_TOML.replace('"tokens"', '"token"'),
        "[model] bottleneck: choose from tokens, dense, got 'token'",
    ),
    "a view of nowhere": (
        TINY_TOML + 'permute = "all"\n',
        "[learning] permute: choose from none, second, both, got 'all'",
    ),
    "decoding of nowhere": (
        TINY_TOML + 'reconstruct = "second"\n',
        "[learning] reconstruct: choose from first, both, got 'second'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_word_by_word(mistake: str, tmp_path: Path) -> None:
    text, told = MISTAKES[mistake]
    with pytest.raises(RecipeError, match=f"^{re.escape(f'recipe tiny.toml: {told}')}$"):
        read_hyper_recipe(written(tmp_path, text))


def test_what_a_recipe_may_leave_out_it_may_also_say(tmp_path: Path) -> None:
    said = TINY_TOML.replace("blocks = 1", "blocks = 1\npooled = 0")
    assert read_hyper_recipe(written(tmp_path, said)) == read_hyper_recipe(written(tmp_path, TINY_TOML))


def test_keys_of_the_first_release_mean_the_fields_of_today(tmp_path: Path) -> None:
    old = (
        "contrast = 0.1\nmix = 0.2\nnoise = 0.3\nerase = 0.4\nbehaviour = 1\n"
        "mixed_behaviour = 2\nqueries = 8\nstatistics = 3\n"
    )
    new = (
        "contrastive_weight = 0.1\nmixup = 0.2\nnoise_std = 0.3\nerase_prob = 0.4\nfunctional_weight = 1\n"
        "mixed_functional_weight = 2\nnum_queries = 8\nstatistics_weight = 3\n"
    )
    old_judged = "[evaluation]\nsamples = 3\nquality = 0.5\ncompared = 2\nfine_tune = [3]\nensemble = 4\n"
    new_judged = (
        "[evaluation]\nnum_samples = 3\ntop_fraction = 0.5\nnum_finetuned = 2\nfinetune_epochs = [3]\n"
        "max_ensemble_size = 4\n"
    )
    parts = (
        ("blocks = 1\nunit = 0.5\npooled = 70", old, old_judged),
        (
            "blocks = 1\ntoken_scale = 0.5\npooled_dim = 70",
            new,
            new_judged,
        ),
    )
    first, second = (
        read_hyper_recipe(written(tmp_path, TINY_TOML.replace("blocks = 1", model) + learning + judged))
        for model, learning, judged in parts
    )
    assert first == second
    assert (first.model.token_scale, first.learning.num_queries, first.evaluation.num_finetuned) == (0.5, 8, 2)
    with pytest.raises(
        RecipeError, match="has contrast and contrastive_weight, two keys of one thing; leave out contrast"
    ):
        read_hyper_recipe(written(tmp_path, TINY_TOML + "contrast = 0.1\ncontrastive_weight = 0.1\n"))


def test_files_keep_the_keys_of_the_first_release(tmp_path: Path) -> None:
    recipe = read_hyper_recipe(written(tmp_path, TINY_TOML + "mixup = 0.5\nlayer_weights = [1, 2]\n"))
    values = recipe.to_json()
    assert (values["learning"]["mix"], values["learning"]["layer_weights"]) == (0.5, [1, 2])
    assert [*values["model"]][-2:] == ["unit", "pooled"] and values["evaluation"] is None
    assert {"samples", "quality", "compared", "fine_tune", "ensemble"} <= {*recipe.evaluation.to_json()}
    assert HyperRecipe.from_json(values) == recipe
    del values["learning"]["mix"], values["learning"]["layer_weights"]  # as a release without them wrote it
    assert HyperRecipe.from_json(values).learning == dataclasses.replace(recipe.learning, mixup=0.0, layer_weights=())
    for broken in (values | {"learning": 7}, values | {"model": values["model"] | {"sharpness": 1}}, {}, 7):
        with pytest.raises(FormatError):
            HyperRecipe.from_json(broken)


def test_broken_toml_is_answered_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^recipe tiny\.toml: .*line 1"):
        read_hyper_recipe(written(tmp_path, "[data\n"))


def test_a_recipe_of_no_known_name_or_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^unknown recipe 'dem'; did you mean 'demo'\?$"):
        read_hyper_recipe("dem")
    path = tmp_path / "none.toml"
    told = f"there is no recipe file {path}; pass a TOML file or one of demo, fashion-mnist"
    with pytest.raises(RecipeError, match=f"^{re.escape(told)}$"):
        read_hyper_recipe(str(path))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("heads = 2", "heads = 3", "[model] width must be a multiple of heads 3, got 16"),
        ("latent = 0.4", "latent = 0.0", "[model] latent must be positive, got 0.0"),
        (
            '"tokens"',
            '"dense"',
            "[model] latent must be a whole number, the size of the dense bottleneck, got 0.4",
        ),
        (
            "latent = 0.4",
            "latent = 128",
            "[model] latent must be at most 1, the share of each token's length, got 128",
        ),
        ("blocks = 1", "blocks = 1\npooled = -1", "[model] pooled_dim must not be negative, got -1"),
        (
            "[learning]",
            '[evaluation]\nsamplers = ["nromal"]\n[learning]',
            "[evaluation] samplers: unknown sampler 'nromal'; did you mean 'normal'?",
        ),
        ("lr = 1e-3", "lr = nan", "[learning] lr must be positive, got nan"),
        ("lr = 1e-3", "lr = 1e-3\ncontrast = 1.5", "[learning] contrastive_weight must be in [0, 1], got 1.5"),
        ("[1, 2]", "[2, 1]", "[data] epochs must be [first, last], got [2, 1]"),
        (
            "[learning]",
            "[evaluation]\nquality = 3.0\n[learning]",
            "[evaluation] top_fraction must be in (0, 1], got 3.0",
        ),
        ("blocks = 1", "blocks = 0", "[model] blocks must be at least 1, got 0"),
        ("blocks = 1", 'blocks = "1"', "[model] blocks must be int, got '1'"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_done(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in TINY_TOML
    with pytest.raises(RecipeError) as caught:
        read_hyper_recipe(written(tmp_path, TINY_TOML.replace(old, new)))
    assert str(caught.value).endswith(told)
