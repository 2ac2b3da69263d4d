"""Published originals -> zoo folder."""

from .run import FORMATS as FORMATS
from .run import Imported as Imported
from .run import import_zoo as import_zoo
