"""Disks that end with the process that mounted them."""

import os
import shutil
import subprocess

import pytest


def in_mounts_of_our_own(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount things, which end with it; skips where this system allows nobody to."""
    words = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1) to mount a small disk")
    probe = subprocess.run(
        [*words, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"], capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {probe.stderr.strip()}")
    return subprocess.run([*words, "sh", "-c", script], capture_output=True, text=True, timeout=300)
