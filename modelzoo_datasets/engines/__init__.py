"""Engines train and evaluate populations of models; they differ in speed, never in what a model depends on."""

from .functions import Functions as Functions
from .functions import functions_of as functions_of
from .interface import METRICS as METRICS
from .interface import SPARSITY as SPARSITY
from .interface import Engine as Engine
from .interface import Job as Job
from .interface import Measured as Measured
from .interface import Network as Network
from .interface import States as States
from .registry import ENGINES as ENGINES
from .registry import get_engine as get_engine
from .single import variational_layout as variational_layout
from .threads import one_thread as one_thread
from .workers import LostWorkerError as LostWorkerError
