from .baselines import draw as draw
from .cache import CachedEvaluator as CachedEvaluator
from .cache import CachedSamplingContext as CachedSamplingContext
from .metrics import judge as judge
from .novelty import measure_novelty as measure_novelty
from .populations import Population as Population
from .protocol import EVALUATION_FORMAT as EVALUATION_FORMAT
from .protocol import evaluated as evaluated
