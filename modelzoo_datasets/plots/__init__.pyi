from .base import COLOURS as COLOURS
from .base import new_figure as new_figure
from .base import to_png as to_png
from .hyperparameter_plots import accuracy_by_hyper_parameter as accuracy_by_hyper_parameter
from .population_plots import accuracy_boxes as accuracy_boxes
from .population_plots import layer_ranges as layer_ranges
from .population_plots import similarity_histograms as similarity_histograms
from .population_plots import sparsity_curves as sparsity_curves
