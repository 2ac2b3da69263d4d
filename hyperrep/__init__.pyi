from .api import evaluate as evaluate
from .api import probe as probe
from .api import train as train
from .model import HyperRepresentation as HyperRepresentation
from .model import RepresentationConfig as RepresentationConfig
from .recipe_choice import choose_recipe as choose_recipe
from .recipe_toml import read_hyper_recipe as read_hyper_recipe
from .release import load_sample as load_sample
