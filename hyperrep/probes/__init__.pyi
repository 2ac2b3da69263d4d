from .property_prediction import Probe as Probe
from .property_prediction import probe_properties as probe_properties
from .property_prediction import select_probed_states as select_probed_states
