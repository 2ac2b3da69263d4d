"""The architectures of the zoos: what can be built, initialised and permuted by name."""

from . import changed as changed
from . import resnet as resnet
from . import small_cnn as small_cnn
from .cnn import cnn_s as cnn_s
from .modules import ACTIVATION_MODULES as ACTIVATION_MODULES
from .modules import initialise as initialise
from .registry import ANY_FORMAT as ANY_FORMAT
from .registry import Architecture as Architecture
from .registry import architecture_for as architecture_for
from .registry import architecture_names as architecture_names
from .registry import architecture_of as architecture_of
from .registry import get_architecture as get_architecture
from .registry import module_from_vector as module_from_vector
from .registry import register as register
from .registry import tensors_alone as tensors_alone
from .registry import variants_for_classes as variants_for_classes
