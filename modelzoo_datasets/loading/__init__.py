"""A published zoo as one tensor, one table and plain modules; from a folder or from the Hub, whole or as a stream.

load.py         load_zoo: what was asked for as one Zoo
stream.py       stream_zoo: the same as batches, however large the zoo is
zoo.py          Zoo: weights (N, P), a row per state, the layout
converters.py   weights as tensors per parameter, as tokens per neuron, as lists of layers, and back
dataset.py      a source and a config: its facts, its layout, its shards
wanted.py       which rows and columns are asked for, and which row groups cannot have any of them
shards.py       one Parquet file: the chosen rows, and their weights without a detour
decoded.py      the cache of decoded files
"""

from .converters import Layers as Layers
from .converters import Tokens as Tokens
from .load import load_zoo as load_zoo
from .stream import stream_zoo as stream_zoo
from .zoo import Zoo as Zoo
