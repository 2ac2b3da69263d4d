"""What engines are used for: measuring, fine-tuning, and how alike the models of a population are."""

from .comparing import Comparison as Comparison
from .comparing import compare as compare
from .describe import MEASURES as MEASURES
from .describe import read_statistics as read_statistics
from .describe import write_statistics as write_statistics
from .distances import nearest as nearest
from .ensembles import ensemble_curve as ensemble_curve
from .errors_alike import error_similarity as error_similarity
from .fine_tuning import fine_tune as fine_tune
from .similarity import agreement as agreement
from .similarity import cka as cka
from .similarity import pair_summary as pair_summary
from .similarity import weight_distances as weight_distances
from .statistics import accuracy_spread as accuracy_spread
from .statistics import layer_statistics as layer_statistics
