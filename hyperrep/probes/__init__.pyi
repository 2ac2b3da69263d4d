from .property_prediction import Probe as Probe
from .property_prediction import probe_all as probe_all
from .property_prediction import probed_states as probed_states
