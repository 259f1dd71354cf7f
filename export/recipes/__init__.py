"""Founding experiments from end to end: data, training, figures, a table beside the published numbers, a model file.

A recipe is one module of this package (or a package of that name) with one function::

    def run(job: RecipeJob) -> RecipeReport: ...

`RECIPES` names them; a module is imported when its recipe runs. What a recipe is given and what it hands back are in
`export.recipes.job` and `export.recipes.report`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamproc.errors import ConfigError

if TYPE_CHECKING:
    from .job import RecipeJob
    from .report import RecipeReport


@dataclass(frozen=True)
class Recipe:
    """A recipe that exists.

    Parameters
    ----------
    name : str
        On the command line. The module is called the same, with underscores.
    summary : str
    n_seeds : int
        Seeds of a full run unless `--seeds` is given; a quick run takes one.
    """

    name: str
    summary: str
    n_seeds: int = 1

    def load(self) -> Callable[[RecipeJob], RecipeReport]:
        """Import the recipe and return its function."""
        module = f"{__name__}.{self.name.replace('-', '_')}"
        try:
            run: Callable[[RecipeJob], RecipeReport] = importlib.import_module(module).run
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise ConfigError(f"recipe {self.name!r} is not part of this checkout: there is no {module}") from error
        return run


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("sine", "Denoise a sine wave with an RNN, a bidirectional RNN and GRUs", n_seeds=5),
        Recipe("iir", "Recurrent networks that are filters: by construction, and by training", n_seeds=10),
        Recipe("signal-type", "Square or saw-tooth wave: state-frequency memory beside LSTM and GRU", n_seeds=5),
        Recipe("music", "Likelihood of polyphonic music: state-frequency memory beside LSTM and GRU", n_seeds=3),
        Recipe("noize", "An LSTM that predicts and continues music from raw audio", n_seeds=1),
        Recipe("ablation", "What each choice of the denoiser is worth: short trainings, one change each", n_seeds=2),
    )
}
"""Every recipe by name."""


def find_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises
    ------
    ConfigError
        With the names that exist, for one that does not.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
