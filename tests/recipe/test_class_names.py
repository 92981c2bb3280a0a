"""Pages whose data and models name their classes differently, or not at all."""

import pytest

from hfdistill import LabelSpaceError, load_classifier
from hfdistill.recipe import read_recipe
from hfdistill.recipe.run import run_recipe
from tests.conftest import make_bert, make_sentences
from tests.recipe.material import save

PAGE = """teacher: {pretrained: {source: bare, label_names: [positive, negative]}}
student: {shrink: {layers: 2, fit: false}}
data: two
training: {output_dir: out, max_steps: 2, use_cpu: true, disable_tqdm: true}
measure: {speed: false}
"""


@pytest.fixture
def bare(here):
    return save(make_bert(4, seed=1, labels={0: "LABEL_0", 1: "LABEL_1"}), here / "bare")


def test_a_page_names_the_classes_of_a_teacher_that_has_none(here, bare):
    report = run_recipe(read_recipe("page.yaml"))
    assert [c.label for c in report.classes] == ["positive", "negative"]
    assert load_classifier("out/student").config.id2label == {0: "positive", 1: "negative"}
    assert "positive" in (here / "out" / "student" / "README.md").read_text()
    data = run_recipe(
        read_recipe(
            "page.yaml",
            overrides=["teacher.pretrained.label_names=[negative, positive]", "training.output_dir=other"],
        )
    )
    # the names of outputs turned round: what was right is wrong
    assert report.teacher.metrics["accuracy"] == pytest.approx(1 - data.teacher.metrics["accuracy"])


def test_a_label_map_of_a_page_is_measured_by_too(here, bare):
    overrides = ["teacher=bare", "student={pretrained: {source: teacher}}"]
    overrides += ["label_map={LABEL_0: positive, LABEL_1: negative}"]
    turned = run_recipe(read_recipe("page.yaml", overrides=overrides))
    named = run_recipe(read_recipe("page.yaml", overrides=["training.output_dir=other"]))
    assert turned.teacher.metrics["accuracy"] == named.teacher.metrics["accuracy"]


@pytest.mark.parametrize("verdicts", [["good"], ["1"]])
def test_one_class_is_refused_before_anything_is_trained(here, verdicts):
    lines = [f"{text},{verdicts[0]}" for text, _ in make_sentences(20)]
    (here / "one.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    overrides = ["teacher={finetune: {encoder: encoder, epochs: 1}}", "data=one.csv"]
    with pytest.raises(ValueError, match="have one class alone"):
        run_recipe(read_recipe("page.yaml", overrides=overrides))
    assert not list(here.glob("out/*/checkpoint-*")) + list(here.glob("out/*/model.safetensors"))


def test_foreign_names_are_refused_before_anything_is_trained(here):
    overrides = ["teacher=teacher", "data=three"]
    with pytest.raises(LabelSpaceError, match=r"rows of 'bad', 'fair', 'good'.*'negative', 'positive'"):
        run_recipe(read_recipe("page.yaml", overrides=overrides))
    assert not list(here.glob("out/*/model.safetensors"))
