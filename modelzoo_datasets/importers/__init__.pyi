from .base import Overrides as Overrides
from .base import check_source as check_source
from .convert import Imported as Imported
from .convert import import_zoo as import_zoo
from .state_files import pack_states as pack_states
from .state_files import read_state_files as read_state_files
