"""What a goal can say, and what it refuses before anything is looked at."""

from types import SimpleNamespace

import pytest

from hfdistill.recipe.check import check
from hfdistill.recipe.goal import fit as fitting
from hfdistill.recipe.goal import page as pages
from hfdistill.recipe.goal.target import Goal
from hfdistill.recipe.page import Page, RecipeError


@pytest.mark.parametrize(
    ("keep", "share"), [("98%", 0.98), ("97.5 %", 0.975), (0.9, 0.9), (1, 1.0), ("0.5", 0.5)]
)
def test_a_share_is_read(keep, share):
    assert Goal(keep, max_ms=5).share == pytest.approx(share)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"keep": 98}, "above 0 and up to 1. Type 98% or 0.98"),
        ({"keep": "98"}, "Type 98% or 0.98"),
        ({"keep": "101%"}, "Type 98% or 0.98"),
        ({"keep": 0}, "Type 98% or 0.98"),
        ({"keep": "most"}, "keep is most"),
        ({"keep": float("nan")}, "Type 98% or 0.98"),
        ({"max_ms": 0}, "takes some milliseconds"),
        ({"max_mb": -3}, "takes some megabytes"),
        ({"max_ms": None}, "no limit, and the teacher itself keeps everything"),
        ({"choose": 1.5}, "a share between 0 and 1"),
        ({"metric": "acuracy"}, "not known. Choose from: accuracy, agreement"),
        ({"candidates": ["layer"]}, "there is no 'layer'. Choose from: layers, neurons"),
        ({"candidates": []}, "the list is empty"),
        ({"texts": 3}, "too few to fit weights to"),
    ],
)
def test_what_cannot_be_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Goal(**{"max_ms": 5, **arguments})


def test_the_metric_is_that_of_the_task():
    plain = Goal(max_ms=5)
    assert plain.metric_of("single_label", labelled=True) == "accuracy"
    assert plain.metric_of("single_label", labelled=False) == "agreement"
    assert plain.metric_of("multi_label", labelled=True) == "micro_f1"
    assert plain.metric_of("regression", labelled=True) == "pearson"
    for task, labelled, metric, match in [
        ("regression", True, "accuracy", "which this task .regression. does not have"),
        ("single_label", True, "pearson", "Choose from: accuracy, macro_f1, agreement"),
        ("single_label", False, "macro_f1", "have no labels. Type metric: agreement"),
        ("regression", False, None, "have no labels, and pearson needs them"),
        ("token", True, None, "this teacher labels words"),
    ]:
        with pytest.raises(ValueError, match=match):
            Goal(max_ms=5, metric=metric).metric_of(task, labelled=labelled)


def test_limits():
    both, mb = Goal(max_ms=5, max_mb=30), Goal(max_mb=30)
    assert [both.is_fast(ms) for ms in (5.0, 5.1, None)] == [True, False, False]
    assert [both.is_small(size) for size in (30.0, 30.1)] == [True, False]
    assert [mb.is_fast(ms) for ms in (None, 1e9)] == [True, True]
    assert both.limits() == "5 ms, 30 MB"
    assert mb.limits() == "30 MB"


PAGE = {"teacher": "teacher", "data": "two", "training": {"output_dir": "out"}, "goal": {"max_ms": 5}}


def test_a_page_with_a_goal_names_no_student():
    recipe = check(Page("page", PAGE))
    assert recipe.goal == Goal(max_ms=5)
    assert recipe.student.kind == "pretrained"
    assert (
        check(Page("page", {**PAGE, "goal": {"max_ms": 5, "keep": "98%", "choose": "dev"}})).goal.choose
        == "dev"
    )


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"goal": {"keep": "98%"}}, "goal: there is no limit"),
        ({"goal": {"max_ms": 5, "kep": 0.9}}, "Did you mean keep?"),
        ({"goal": {"max_ms": 5, 3: 4}}, r"^page: goal\[3\]: there is no key of goal '3'[^\n]*$"),
        ({"goal": {"max_ms": "5 ms"}}, "goal.max_ms: found .*a number"),
        ({"student": {"shrink": {"layers": 3}}}, "student: has no place beside"),
        ({"generations": 2}, "generations: has no place beside"),
        ({"search": {"training.learning_rate": [1e-5, 1e-3, "log"]}}, "search: has no place beside"),
        ({"teacher": {"ensemble": {"members": ["a", "b"]}}}, "goal: needs one model as the teacher"),
        ({"teacher": None}, "goal: needs one model as the teacher"),
        ({"measure": {"baseline": True}}, "measure.baseline: is not done for a goal"),
        (
            {"training": {"output_dir": "out", "push_to_hub": True}},
            "training.push_to_hub: is not done for a goal",
        ),
        ({"training": {"output_dir": "out", "max_steps": 9}}, "training.max_steps: .*Type num_train_epochs"),
    ],
)
def test_what_a_goal_does_not_go_with_is_a_mistake_of_the_page(sections, match):
    with pytest.raises(RecipeError, match=match) as caught:
        check(Page("page", {**PAGE, **sections}))
    assert not any("lacks the section student" in str(mistake) for mistake in caught.value.mistakes)


PAGE = {
    "teacher": {"pretrained": {"source": "teacher"}},
    "data": {"source": "data"},
    "training": {"output_dir": "out"},
    "goal": {"max_ms": 5},
}


def test_a_goal_is_searched_on_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"one after the other. Start it on one process"):
        fitting.fit_recipe(check(Page("goal", PAGE)))


@pytest.mark.parametrize(
    ("task", "columns", "names"),
    [
        ("regression", ["text", "label"], ["label_mse", "logit_mse"]),
        ("single_label", ["text", "label"], ["cross_entropy", "kd"]),
        ("single_label", ["text"], ["kd"]),
    ],
)
def test_students_learn_from_recorded_answers_where_a_page_names_no_loss(task, columns, names):
    rows = SimpleNamespace(task=task, labelled=SimpleNamespace(column_names=columns))
    recipe = fitting._with_objective(check(Page("goal", PAGE)), rows)
    assert [next(iter(term)) for term in recipe.page["objective"]] == names


def test_paths_and_losses_stand_on_the_page_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("hfdistill.recipe.goal.fit.fit_recipe", lambda recipe: recipe)
    monkeypatch.setattr(pages, "fit_recipe", lambda recipe: recipe, raising=False)
    recipe = pages.fit_student("rows.csv", "teacher", tmp_path, max_ms=5, objective=[{"kd": {"weight": 1.0}}])
    assert recipe.page["data"]["source"] == "rows.csv"
    assert recipe.page["teacher"] == {"pretrained": {"source": "teacher"}}
    assert recipe.page["objective"] == [{"kd": {"weight": 1.0}}]
