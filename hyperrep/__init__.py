"""Hyper-representations: auto-encoders of neural network weights, their probes, samplers and evaluation."""

from .autoencoder import HyperRepresentation as HyperRepresentation
from .recipe import read_hyper_recipe as read_hyper_recipe
from .run import evaluate as evaluate
from .run import train as train
from .storage import load_representation as load_representation
