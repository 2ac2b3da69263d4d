from .architectures import Architecture as Architecture
from .architectures import register_architecture as register_architecture
from .builder import build_dataset as build_dataset
from .engines import get_engine as get_engine
from .errors import ModelZooError as ModelZooError
from .generation import generate_zoo as generate_zoo
from .hub import push_to_hub as push_to_hub
from .images import ImageDataset as ImageDataset
from .images import register_images as register_images
from .importers import import_zoo as import_zoo
from .loading import Zoo as Zoo
from .loading import load_zoo as load_zoo
from .loading import stream_zoo as stream_zoo
from .recipes import read_recipe as read_recipe
from .verification import verify_folder as verify_folder

__version__: str
