"""`hfdistill train PAGE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hfdistill.cli import fit
from hfdistill.files.plain_data import printable
from hfdistill.recipe import read_recipe

HELP = "distil what a page of YAML says"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a page of YAML and what to do with it."""
    parser.add_argument("page", help="such as recipes/kd.yaml")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="such as training.seed=1")
    parser.add_argument("--smoke", action="store_true", help="two steps on 16 rows, under output_dir/smoke")
    parser.add_argument(
        "--check", action="store_true", help="look for mistakes in the page, and train nothing"
    )
    parser.add_argument(
        "--search", action="store_true",
        help="try values at the places that `search:` names, and write output_dir/best.yaml",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, help="of --search, in all; default 20")
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="after which --search begins no trial"
    )


def run(args: argparse.Namespace) -> int:
    """Train, check or search what a page says; 3 where it has a goal, and no student keeps enough."""
    recipe = read_recipe(args.page, overrides=args.overrides)
    if args.check:
        from hfdistill.files.hub import HubUnreachable
        from hfdistill.recipe.run import check_recipe

        try:
            check_recipe(recipe)
        except HubUnreachable as error:
            print(f"models and data were not looked at: {error}", file=sys.stderr)
        print(f"{printable(Path(args.page).name)}: no mistakes found")
        return 0
    if args.search:
        if args.smoke:
            raise ValueError("--search and --smoke do not go together: two steps compare nothing. Drop one.")
        from hfdistill.recipe.search import search_recipe

        trials = 20 if args.trials is None else args.trials
        print(search_recipe(recipe, trials=trials, timeout=args.timeout))
        return 0
    if args.trials is not None or args.timeout is not None:
        raise ValueError("--trials and --timeout belong to --search. Add it.")
    if recipe.goal is not None and not args.smoke:
        return fit.search(recipe)
    from hfdistill.recipe.run import run_recipe
    from hfdistill.recipe.threads import use_idle_cores

    use_idle_cores()
    run_recipe(recipe, smoke=args.smoke)
    return 0
