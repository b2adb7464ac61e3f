"""The config tests once more, with the Hydra and OmegaConf that come next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

NEXT = ["hydra-core==1.4.0rc3", "omegaconf==2.4.1rc1"]
TESTS = ["tests/config/test_config.py", "tests/config/test_configs.py", "tests/test_cli.py", "tests/commands"]


@pytest.mark.slow
def test_the_config_tests_pass_with_hydra_1_4(tmp_path: Path) -> None:
    """In front of what is installed, so that torch need not be installed again."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, *NEXT]
    subprocess.run([*install, "antlr4-python3-runtime"], check=True)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    shown = [sys.executable, "-c", "import hydra, omegaconf; print(hydra.__version__, omegaconf.__version__)"]
    version = subprocess.run(shown, env=environment, check=True, capture_output=True, text=True).stdout
    assert version.startswith("1.4")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
