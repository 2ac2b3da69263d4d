from .autoencoder import HyperRepresentation as HyperRepresentation
from .layer_statistics import compute_layer_statistics as compute_layer_statistics
from .samplers import SAMPLERS as SAMPLERS
from .samplers import best_states as best_states
from .samplers import parse_sampler as parse_sampler
from .samplers import principal_axes as principal_axes
