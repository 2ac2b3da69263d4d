from .base import COLORS as COLORS
from .base import new_figure as new_figure
from .base import to_png as to_png
from .hyperparameter_plots import plot_accuracy_by_hyperparameter as plot_accuracy_by_hyperparameter
from .population_plots import plot_accuracy_boxes as plot_accuracy_boxes
from .population_plots import plot_layer_ranges as plot_layer_ranges
from .population_plots import plot_similarity_histograms as plot_similarity_histograms
from .population_plots import plot_sparsity_curves as plot_sparsity_curves
