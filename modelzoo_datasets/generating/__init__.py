"""Recipe -> zoo folder."""

from .generate import generate as generate
