"""The controls for a latent a perspective: as many extractor parameters, one latent."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs" / "student"


def extractor_parameters(config):
    """Parameters of the config's extractor at H = R = 384, with three perspectives where it has a latent for each."""
    settings = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    spec = settings["model"]["init_args"]["extractor"]
    module, _, name = spec["class_path"].rpartition(".")
    number = 3 if settings["data"]["init_args"].get("target_mode") == "per_perspective" else 1
    extractor = getattr(import_module(module), name)(384, 384, number, **spec.get("init_args", {}))
    return sum(p.numel() for p in extractor.parameters())


@pytest.mark.parametrize("kind", ["mlp", "poly"])
def test_the_control_has_as_many_parameters(kind):
    per_perspective, matched = (extractor_parameters(f"lrkd_{kind}_{name}") for name in ("perspectives", "matched"))
    assert matched == pytest.approx(per_perspective, rel=0.002)
    assert matched > 1.05 * extractor_parameters(f"lrkd_{kind}"), "without the control's change it would not be matched"


def test_a_latent_a_perspective_costs_the_gat_two_rows():
    # Hence it needs no control: two more rationale tokens of width 128.
    assert extractor_parameters("lrkd_gat_perspectives") == extractor_parameters("lrkd_gat") + 2 * 128
