from .base import Overrides as Overrides
from .convert import Imported as Imported
from .convert import import_zoo as import_zoo
from .formats import FORMATS as FORMATS
from .formats import check_source as check_source
