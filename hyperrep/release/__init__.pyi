from .cards import not_evaluated as not_evaluated
from .cards import representation_card as representation_card
from .export import Draw as Draw
from .export import Measuring as Measuring
from .export import export_embeddings as export_embeddings
from .export import export_samples as export_samples
from .publish import write_card as write_card
from .sampled_model import SampledModel as SampledModel
