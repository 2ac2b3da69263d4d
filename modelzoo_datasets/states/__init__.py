"""A zoo folder on disk: how it is written so that nothing is lost, and how it is read back."""

from .files import partial_beside as partial_beside
from .files import read_json as read_json
from .files import read_table as read_table
from .files import read_tensors as read_tensors
from .files import write_bytes as write_bytes
from .files import write_json as write_json
from .files import write_table as write_table
from .files import write_tensors as write_tensors
from .folder import DATASET_FORMAT as DATASET_FORMAT
from .folder import LAYOUTS as LAYOUTS
from .folder import PAIRS_FILE as PAIRS_FILE
from .folder import STATISTICS_FILE as STATISTICS_FILE
from .reader import ZooFolder as ZooFolder
from .reader import weights_sha256 as weights_sha256
from .writer import ZooWriter as ZooWriter
