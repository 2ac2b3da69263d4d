"""Zoo folders -> dataset folder, which is exactly what is pushed to the Hub."""

from .build import build as build
