"""Sweeps: many runs of one config with a few settings changed, launched, resumed and compared.

A file of `configs/sweeps/` lists the trials with what is named here; `python -m vitpose_jax.sweep FILE` does the rest.
The modules in reading order: `trials` (what a sweep file says), `record` (what a trial's folder says), `local` (running
trials), `clusters` (Slurm, xpk), `results` and `plot`, `__main__`.
"""

from vitpose_jax.sweep.trials import Sweep, choice, cross, draws, grid, log_uniform, together, uniform

__all__ = ["Sweep", "choice", "cross", "draws", "grid", "log_uniform", "together", "uniform"]
