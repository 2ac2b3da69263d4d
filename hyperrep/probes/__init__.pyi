from .features import AnswerOptions as AnswerOptions
from .features import AnswerSource as AnswerSource
from .features import find_probe_images as find_probe_images
from .property_prediction import BOOSTED as BOOSTED
from .property_prediction import MAX_WEIGHT as MAX_WEIGHT
from .property_prediction import Probe as Probe
from .property_prediction import probe_properties as probe_properties
from .property_prediction import select_probed_states as select_probed_states
