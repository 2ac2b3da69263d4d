"""How much two models err on the same images: a copy errs where its original does, a new model elsewhere.

n and M models, B images.
"""

import torch
from torch import Tensor

from ..errors import FormatError

_NUMBERS = 2**25  # numbers of the others that are turned to float32 at once


def find_error_overlap(wrong: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each model the largest overlap of its errors with those of one of the others, (n,), and whose, (n,).

    Overlap = |E ∩ E'| / |E ∪ E'|, the intersection over union of the sets of images that two models get wrong, as in
    the study of memorization by Zeng et al. (2506.07998); 1 for two models without errors.

    Args:
        wrong: (n, B) bool, whether a model errs on an image.
        others: (M, B) bool.

    Raises:
        FormatError: the numbers of images differ, or there are no others.
    """
    if wrong.ndim != 2 or others.ndim != 2 or wrong.shape[1] != others.shape[1] or not len(others):
        raise FormatError(f"expected errors on the same images, got {tuple(wrong.shape)} and {tuple(others.shape)}")
    best, index = torch.full((len(wrong),), -1.0, dtype=torch.float64), torch.zeros(len(wrong), dtype=torch.long)
    mine = wrong.float()
    for first in range(0, len(others), at_once := max(1, _NUMBERS // max(1, wrong.shape[1]))):
        part = others[first : first + at_once].float()
        both = (mine @ part.mT).double()  # counts, exact in float32 to 2^24 images
        either = mine.sum(1, dtype=torch.float64).unsqueeze(1) + part.sum(1, dtype=torch.float64) - both
        overlap = torch.where(either > 0, both / either, 1.0)
        found = overlap.max(dim=1)
        better = found.values > best
        best = torch.where(better, found.values, best)
        index = torch.where(better, found.indices + first, index)
    return best, index
