from .base import Overrides as Overrides
from .base import check_source as check_source
from .convert import Imported as Imported
from .convert import import_zoo as import_zoo
