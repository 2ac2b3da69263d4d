from .cache import cache_folder as cache_folder
from .cache import make_room as make_room
from .cache import max_cache_bytes as max_cache_bytes
from .load import load_zoo as load_zoo
from .load import stream_zoo as stream_zoo
from .shard import Shard as Shard
from .zoo import Zoo as Zoo
