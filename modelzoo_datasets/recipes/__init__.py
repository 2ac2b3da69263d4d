"""Recipes: frozen values that fix everything that decides the weights, read from TOML."""

from .checks import check_keys as check_keys
from .checks import check_type as check_type
from .checks import parse_range as parse_range
from .member import Member as Member
from .member import splits_of as splits_of
from .published import Published as Published
from .published import model_id_of as model_id_of
from .reading import find_recipe as find_recipe
from .reading import read_recipe as read_recipe
from .reading import recipe_names as recipe_names
from .recipe import Config as Config
from .recipe import Recipe as Recipe
from .recipe import chosen_members as chosen_members
from .training import ACTIVATIONS as ACTIVATIONS
from .training import AUGMENTATIONS as AUGMENTATIONS
from .training import INITS as INITS
from .training import OPTIMIZERS as OPTIMIZERS
from .training import SCHEDULES as SCHEDULES
from .training import ElsewhereTraining as ElsewhereTraining
from .training import RecordedTraining as RecordedTraining
from .training import Training as Training
