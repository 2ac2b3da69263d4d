"""The section [evaluation] of a recipe: what it says, its defaults, and what no protocol can be."""

from pathlib import Path

import pytest
from helpers.tiny_learning import TINY_TOML

from hyperrep import read_hyper_recipe
from hyperrep.recipe import EvaluationRecipe
from hyperrep.recipe_toml import read_protocol
from modelzoo_datasets.errors import RecipeError


def read(tmp_path: Path, text: str) -> EvaluationRecipe:
    """The section as it is read."""
    path = tmp_path / "tiny.toml"
    path.write_text(f"{TINY_TOML}[evaluation]\n{text}")
    return read_hyper_recipe(str(path)).evaluation


def test_questions_that_are_not_asked_for_are_not_asked(tmp_path: Path) -> None:
    asked = read(tmp_path, "")
    assert asked == EvaluationRecipe()
    assert (asked.transfer, asked.changed, asked.max_ensemble_size) == ((), (), 1)


def test_lists_are_read_and_the_longest_fine_tuning_decides(tmp_path: Path) -> None:
    asked = read(
        tmp_path, 'fine_tune = [1, 50, 5]\nsamplers = ["kde@100", "gan"]\nnoise = [1, 0.5]\ntransfer = ["mnist"]\n'
    )
    assert asked.max_finetune_epochs == 50
    assert asked.samplers == ("kde@100", "gan")
    assert asked.noise == (1, 0.5)
    assert asked.transfer == ("mnist",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fine_tune = [0, 5]", "[evaluation] finetune_epochs must be at least 1, got [0, 5]"),
        ("fine_tune = []", "[evaluation] finetune_epochs must not be empty"),
        ("fine_tune = 5", "[evaluation] finetune_epochs must be a list, got 5"),
        ('samplers = ["kde", "gan", "kde"]', "[evaluation] samplers: kde is listed twice"),
        ("noise = [0.1, 0.2, 0.1]", "[evaluation] noise: 0.1 is listed twice"),
        ('changed = ["res-cnn", "res-cnn"]', "[evaluation] changed: res-cnn is listed twice"),
        ("noise = [0.1, -0.1]", "[evaluation] noise must be positive, got [0.1, -0.1]"),
        ("moves = [0]", "[evaluation] moves must be positive, got [0]"),
        ("mixtures = [0.6]", "[evaluation] mixtures must be in (0, 0.5], got [0.6]"),
        ("fine_tune_epochs = 5", "[evaluation] has no key 'fine_tune_epochs'; did you mean 'finetune_epochs'?"),
    ],
)
def test_what_no_protocol_can_be_is_told_word_by_word(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text + "\n")
    assert str(caught.value) == f"recipe tiny.toml: {told}"


def test_a_protocol_of_its_own_is_an_evaluation_section_alone(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text('[evaluation]\nsamplers = ["normal"]\nfine_tune = [1, 5, 25, 50]\n')
    assert read_protocol(path) == EvaluationRecipe(samplers=("normal",), finetune_epochs=(1, 5, 25, 50))
    for content, told in (
        ("[learning]\nepochs = 3\n", "protocol long.toml: a protocol has no key 'learning'; known: evaluation"),
        ("[evaluation]\nquality = 0.0\n", "protocol long.toml: [evaluation] top_fraction must be in (0, 1], got 0.0"),
        ("[evaluation]\nbandwidth = -1.0\n", "protocol long.toml: [evaluation] bandwidth must be positive, got -1.0"),
    ):
        path.write_text(content)
        with pytest.raises(RecipeError) as caught:
            read_protocol(path)
        assert str(caught.value) == told
