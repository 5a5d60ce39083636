"""Many runs from one file: ablations, and the grids of W&B sweeps."""
