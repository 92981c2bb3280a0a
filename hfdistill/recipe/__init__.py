"""Pages of YAML: read, checked, run."""

from hfdistill.recipe.check import Recipe, read_recipe
from hfdistill.recipe.page import Mistake, RecipeError
