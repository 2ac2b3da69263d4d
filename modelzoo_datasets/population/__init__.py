"""What engines are used for: measuring, fine-tuning, and how far models are from each other."""

from .distances import nearest as nearest
from .fine_tuning import fine_tune as fine_tune
