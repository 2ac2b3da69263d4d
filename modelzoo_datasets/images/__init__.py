"""The image datasets that zoos are trained on, whole and in memory."""

from . import published as published
from .images import Images as Images
from .images import Split as Split
from .registry import ImageDataset as ImageDataset
from .registry import get_image_dataset as get_image_dataset
from .registry import image_dataset_names as image_dataset_names
from .registry import load_images as load_images
from .registry import register_images as register_images
