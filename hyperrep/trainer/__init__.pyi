from .checkpoints import CHECKPOINT_FILE as CHECKPOINT_FILE
from .functional_loss import Predictor as Predictor
from .initialize import create_representation as create_representation
from .loop import Precision as Precision
from .loop import compute_reconstruction_r2 as compute_reconstruction_r2
from .loop import train_epochs as train_epochs
from .metrics_log import EpochMetrics as EpochMetrics
from .metrics_log import open_metrics_log as open_metrics_log
