"""A zoo folder on disk: how it is written so that nothing is lost, and how it is read back."""

from .files import partial_beside as partial_beside
from .files import read_json as read_json
from .files import read_tensors as read_tensors
from .files import write_bytes as write_bytes
from .files import write_json as write_json
from .files import write_table as write_table
from .files import write_tensors as write_tensors
from .folder import DATASET_FORMAT as DATASET_FORMAT
from .reader import ZooFolder as ZooFolder
from .reader import weights_sha256 as weights_sha256
from .writer import ZooWriter as ZooWriter
