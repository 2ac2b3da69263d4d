"""Links of cards: papers, project page and code."""

_PROJECT = {
    "Paper of the model zoos": "https://arxiv.org/abs/2209.14764",
    "Project": "https://www.modelzoos.cc",
    "Code of the paper": "https://github.com/ModelZoos/ModelZooDataset",
}
_SMALL_CNN_ZOO = {
    "Paper of the Small CNN Zoo": "https://arxiv.org/abs/2002.11448",
    "Project and code of the paper": "https://github.com/google-research/google-research/tree/master/dnn_predict_accuracy",
}
_WEIGHTCLIP = {"Paper of WeightCLIP": "https://arxiv.org/abs/2607.03551"}
_PACKAGE = {"Code of this dataset": "https://pypi.org/project/modelzoo-datasets/"}


def list_links(import_format: str | None) -> dict[str, str]:
    """Return name -> URL for the card of a dataset.

    Args:
        import_format: Format of the imported original, as `modelzoo-import` names it; None for zoos trained here.
    """
    if import_format == "small-cnn-zoo":
        return {**_SMALL_CNN_ZOO, **_PACKAGE}
    if import_format == "weightclip":
        return {**_WEIGHTCLIP, **_PACKAGE}
    return {**_PROJECT, **_PACKAGE} if import_format in (None, "model-zoos") else _PACKAGE
