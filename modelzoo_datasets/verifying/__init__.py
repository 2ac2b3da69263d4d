"""Whether a zoo folder or a dataset folder is what it says: whole, unaltered, measured right, and to be had again."""

from .checks import Check as Check
from .verify import verify as verify
