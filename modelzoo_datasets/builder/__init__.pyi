from .build import build_dataset as build_dataset
from .checksums import CHECKSUMS_FILE as CHECKSUMS_FILE
from .checksums import data_files as data_files
from .checksums import read_checksums as read_checksums
from .schema import PLACE as PLACE
from .schema import Columns as Columns
from .schema import features as features
