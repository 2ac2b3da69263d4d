"""Model zoos as datasets: generate, publish and load populations of neural networks."""

from importlib.metadata import version

from .building import build as build
from .engines import get_engine as get_engine
from .errors import ModelZooError as ModelZooError
from .generating import generate as generate
from .loading import Zoo as Zoo
from .loading import load_zoo as load_zoo
from .recipes import read_recipe as read_recipe

__version__ = version("modelzoo-datasets")
