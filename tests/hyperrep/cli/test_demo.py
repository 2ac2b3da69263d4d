"""The demo as it ships, whole: minutes, so marked slow (`make slow`)."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import run


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fine_tuned_samples_clearly_beat_training_from_scratch(tmp_path: Path) -> None:
    result = run(["modelzoo-demo", "--out", tmp_path / "demo"], timeout=1800)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "demo" / "evaluation" / "evaluation.json").read_text())
    curves = {p["name"]: np.array(p["curves"]) for p in found["populations"]}
    for sampler in ("kde", "kde-principal"):
        assert len(curves[sampler]) == 50
        for epoch in (1, 5):
            tuned, scratch = curves[sampler][:, epoch], curves["scratch"][:, epoch]
            error = np.sqrt(tuned.var(ddof=1) / len(tuned) + scratch.var(ddof=1) / len(scratch))
            assert tuned.mean() - scratch.mean() > 5 * error
