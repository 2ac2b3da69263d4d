from .build import build_dataset as build_dataset
from .integrity import CHECKSUMS_FILE as CHECKSUMS_FILE
from .integrity import list_data_files as list_data_files
from .integrity import read_checksums as read_checksums
from .schema import BYTE_RANGE_FIELDS as BYTE_RANGE_FIELDS
from .schema import TableSchema as TableSchema
from .schema import describe_features as describe_features
