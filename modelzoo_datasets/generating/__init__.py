"""Recipe -> zoo folder."""

from .generate import generate as generate
from .generate import generate_cohort as generate_cohort
