from .base import Check as Check
from .verify import verify_folder as verify_folder
