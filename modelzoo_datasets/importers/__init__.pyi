from .base import Overrides as Overrides
from .convert import FORMATS as FORMATS
from .convert import Imported as Imported
from .convert import import_zoo as import_zoo
