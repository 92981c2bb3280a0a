"""A plugin's own teacher, student and augmentation are named on a page as those of the library are."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from hfdistill import (
    Teacher,
    load,
    load_classifier,
    register_augmentation,
    register_student,
    register_teacher,
)
from hfdistill.cli import main
from hfdistill.recipe import RecipeError, read_recipe, schema
from tests.conftest import make_bert

PLUGIN = '''
import torch
import hfdistill


@hfdistill.register_teacher("halves")
class Halves(hfdistill.Teacher):
    """Answers as a model does, with logits of half the size."""

    def __init__(self, model, *, share: float = 0.5):
        super().__init__()
        self.inside = hfdistill.ModelTeacher(hfdistill.load_classifier(model))
        self.config, self.share = self.inside.config, share

    def trace(self, batch, *, taps=frozenset()):
        return hfdistill.Trace(logits=self.share * self.inside.trace(batch).logits)

    def inputs(self):
        return self.inside.inputs()


@hfdistill.register_student("first_blocks", has_attention=True)
def first_blocks(teacher, tokenizer, pairs, corpus, *, count: int = 2):
    """The teacher's first blocks."""
    assert pairs is False and corpus.column_names == ["text"] and len(tokenizer) > 5
    return hfdistill.shrink(teacher, layers=list(range(1, count + 1)))


@hfdistill.register_augmentation("shout")
def shout(text: str) -> list[str]:
    """Says it louder."""
    return [text + " very"]


@hfdistill.register_augmentation("swap_ends")
class SwapEnds(hfdistill.Augmentation):
    def __init__(self, *, apart: int = 1):
        self.apart = apart

    def draw(self, prepared, *, random, copy):
        words = prepared.split()
        return " ".join([*words[self.apart :], *words[: self.apart]])
'''
PAGE = """teacher: {halves: {model: teacher, share: 0.25}}
student:
  first_blocks: {count: 3}
  exits: {layers: [1]}
data: {source: two, augment: [shout, {swap_ends: {apart: 2}}], copies: 1}
objective: [cross_entropy, kd]
training: {output_dir: out, max_steps: 2, use_cpu: true, teacher_check_rows: 0}
measure: {speed: false}
"""


@pytest.fixture(autouse=True)
def registers(monkeypatch):
    for name in ("TEACHERS", "STUDENTS", "AUGMENTATIONS"):
        monkeypatch.setattr(schema, name, dict(getattr(schema, name)))


def test_a_page_of_a_users_own_teacher_student_and_augmentations_runs(here, capsys):
    Path("plugin.py").write_text(PLUGIN)
    assert main(["train", "page.yaml", "--plugin", "plugin.py"]) == 0
    config = json.loads(Path("out/student/config.json").read_text())
    assert config["classifier_config"]["shrunk_from"]["layers"] == [1, 2, 3]
    assert config["exits"] == [1]
    report = json.loads(Path("out/student/report.json").read_text())
    assert report["notes"]["rows"] == 128
    assert report["teacher"]["name"] == "Halves"
    rows = load("two")["validation"]
    model, tokenizer = load_classifier("teacher").eval(), AutoTokenizer.from_pretrained("teacher")
    texts = tokenizer(rows["text"][:], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = 0.25 * model(**texts).logits
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(rows["label"][:])).item()
    assert report["teacher"]["metrics"]["nll"] == pytest.approx(nll, rel=1e-4)
    capsys.readouterr()
    assert main(["list", "--plugin", "plugin.py"]) == 0  # a second start in one process: the same names again
    listed = capsys.readouterr().out
    assert "halves" in listed
    assert "Answers as a model does, with logits of half the size." in listed
    assert "The teacher's first blocks." in listed


def test_what_a_plugins_parts_take_is_checked_as_that_of_the_librarys(here):
    Path("plugin.py").write_text(PLUGIN)
    assert main(["list", "teachers", "--plugin", "plugin.py"]) == 0
    for override, match in [
        ("teacher.halves.shares=1", "Did you mean share?"),
        ("teacher.halves.share=half", "it is a number"),
        ("student.first_blocks.teacher=x", "no argument of first_blocks 'teacher'"),
        ("student.first_blocks.count=two", "it is a whole number"),
        ("data.augment=[{swap_ends: {apart: far}}]", "it is a whole number"),
        ("data.augment=[{shout: {loud: true}}]", "no argument of shout 'loud'"),
        ("data.augment=[shot]", "Did you mean shout?"),
        ("teacher=null", "'first_blocks' is made of one teacher, and there is none"),
    ]:
        with pytest.raises(RecipeError) as caught:
            read_recipe("page.yaml", overrides=[override])
        assert match in str(caught.value)
    assert read_recipe("page.yaml", overrides=["student.first_blocks.source=teacher"]).student.arguments == {
        "count": 3,
        "source": "teacher",
    }


def test_a_student_that_takes_no_teacher_says_whose_tokenizer_it_reads(here):
    Path("plugin.py").write_text(PLUGIN)
    assert main(["list", "teachers", "--plugin", "plugin.py"]) == 0

    @register_teacher("coin")
    class Coin(Teacher):
        """Knows nothing, and lies in no folder."""

    @register_student("alone")
    def alone(*, count: int = 2):
        """A model of its own."""

    page = ["teacher={coin: {}}", "student={alone: {count: 1}}", "data=two"]
    with pytest.raises(RecipeError, match=r"'alone' reads the tokenizer of a teacher's model, and there is"):
        read_recipe("page.yaml", overrides=page)
    recipe = read_recipe("page.yaml", overrides=[*page, "student.alone.source=teacher"])
    assert recipe.student.arguments == {"count": 1, "source": "teacher"}


def test_a_name_is_given_once(monkeypatch):
    with pytest.raises(ValueError, match=r"is hfdistill\.students\.shrink:shrink already"):
        register_student("shrink")(lambda teacher: teacher)
    with pytest.raises(ValueError, match="not an identifier"):
        register_augmentation("no name")(str.split)
    with pytest.raises(TypeError, match=r"a subclass of hfdistill\.Teacher, found"):
        register_teacher("model")(make_bert(1))

    @register_teacher("mine")
    class Mine(Teacher):
        """Moves with the student."""

        def after_step(self, student, *, step):
            pass

    assert schema.TEACHERS["mine"].moves
    assert not schema.TEACHERS["pretrained"].moves
