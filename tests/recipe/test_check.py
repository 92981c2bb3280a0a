"""Pages that are checked: every key, all mistakes at once, before anything loads."""

import pytest

from hfdistill import KD, CrossEntropy, Linear, Objective, Step, Until, register
from hfdistill.recipe import RecipeError, read_recipe
from hfdistill.recipe.schema import Measurement, Splits, Student

GOOD = """teacher: some/teacher
student:
  shrink: {layers: 3}
data: some/data
training:
  output_dir: out
"""


def read(tmp_path, text, *overrides):
    (tmp_path / "page.yaml").write_text(text, encoding="utf-8")
    return read_recipe(tmp_path / "page.yaml", overrides=overrides)


def mistakes(tmp_path, text, *overrides):
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text, *overrides)
    assert len(str(caught.value).splitlines()) == len(caught.value.mistakes)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_a_good_page(tmp_path):
    recipe = read(tmp_path, GOOD)
    assert recipe.teacher == ("pretrained", {"source": "some/teacher"})
    assert recipe.student == Student("shrink", {"layers": 3})
    assert recipe.load == {"source": "some/data"}
    assert recipe.splits == Splits()
    assert recipe.objective == "recommended"
    assert recipe.training == {"output_dir": "out"}
    assert recipe.measurement == Measurement()
    assert recipe.export is None


def test_sections_that_may_be_left_out_or_empty(tmp_path):
    alone = GOOD.replace("some/teacher", "null").replace("shrink: {", "shrink: {source: some/model, ")
    recipe = read(tmp_path, alone + "measure:\nexport: {}\n")
    assert recipe.teacher is None
    assert recipe.measurement is None
    assert recipe.export == {}


def test_the_objective_is_the_formula(tmp_path):
    terms = """objective:
  - cross_entropy
  - kd: {weight: 0.5, temperature: {step: {0: 8, 0.5: 1}}}
  - hidden_mse: {weight: {until: 0.5}, layers: "1:2, 2:4"}
  - kd: {weight: {linear: {start: 0, end: 1, until: 0.1}}}
  - dkd: {weight: {linear: [1, 0]}, beta: 2}
"""
    found = str(read(tmp_path, GOOD + terms).objective)
    assert found == (
        "1 * CrossEntropy() + 0.5 * KD(temperature=Step({0: 8, 0.5: 1})) + Until(0.5) * "
        "HiddenMSE(layers='1:2, 2:4', pooling='token') + Linear(0, 1, until=0.1) * KD(temperature=4.0) + "
        "Linear(1, 0) * DKD(alpha=1.0, beta=2, temperature=4.0)"
    )
    own = (
        0.5 * CrossEntropy()
        + 0.5 * KD(temperature=Step({0: 8, 0.5: 1}))
        + Until(0.5) * KD()
        + Linear(1, 0) * KD()
    )
    terms = """objective:
  - cross_entropy: {weight: 0.5}
  - kd: {weight: 0.5, temperature: {step: {0: 8, 0.5: 1}}}
  - kd: {weight: {until: 0.5}}
  - kd: {weight: {linear: [1, 0]}}
"""
    assert str(read(tmp_path, GOOD + terms).objective) == str(own)


def test_five_mistakes_are_five_lines_with_five_fixes(tmp_path):
    said = mistakes(
        tmp_path,
        """teacher: some/teacher
student:
  shrimk: {layers: 3}
data: {source: some/data, on_bad_row: skip}
objective:
  - kd: {weight: 0.5, temprature: 4}
  - cross_entropy: {weight: -1}
training:
  output_dir: out
  evaluation_strategy: epoch
""",
    )
    assert said == [
        "page.yaml, line 3: student.shrimk: there is no student 'shrimk'. Did you mean shrink?",
        "page.yaml, line 4: data.on_bad_row: found 'skip', but it is one of raise, drop. Type one of raise, "
        "drop.",
        "page.yaml, line 6: objective[0].kd.temprature: there is no argument of kd 'temprature'. Did you "
        "mean temperature?",
        "page.yaml, line 7: objective[1].cross_entropy: The weight of an objective is a number from 0 up, "
        "found -1. Write 0.5 * KD().",
        "page.yaml, line 10: training.evaluation_strategy: there is no key of training "
        "'evaluation_strategy'. Did you mean eval_strategy?",
    ]


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("training.learning_rate=fast", "but it is a number"),
        ("training.num_train_epochs=true", "but it is a number"),
        ("training.lr_scheduler_type=cosinus", "one of linear, cosine"),
        ("training.trust_remote_code=true", "code that comes with a model or with data is never run"),
        ("data={source: x, trust_remote_code: true}", "is never run"),
        ("teacher={pretrained: {source: x, trust_remote_code: true}}", "is never run"),
        ("student.shrink.trust_remote_code=true", "is never run"),
        ("training.hub_token=hf_x", "hf auth login"),
        ("teacher=7", "one kind and its arguments, found int"),
        ("teacher={pretrained: {}}", "lacks source"),
        ("teacher={a: 1, b: 2}", "found 2 keys"),
        ("student=null", "is empty"),
        ("student.shrink=3", "takes keys"),
        ("student.shrink.layers=three", "a whole number or a list"),
        ("student.shrink.teacher=x", "no argument of shrink 'teacher'"),
        ("student.shrink.dtype=float16", "no argument of shrink 'dtype'"),
        ("data=null", "lacks source"),
        ("data={source: x, holdout: 2}", "holdout is 2"),
        ("data={source: x, train_rows: 0}", "train_rows is 0"),
        ("data={source: x, split: dev}", "no key of data 'split'"),
        ("objective=kd", "is `recommended` or a list of terms"),
        ("objective=[]", "is `recommended` or a list of terms"),
        ("objective=[3]", "no objective|not a term"),
        ("objective=[[kd]]", "is not a term"),
        ("objective=[{kd: {}, pkd: {}}]", "one term to a dash"),
        ("objective=[KD]", "Did you mean kd"),
        ("objective=[{kd: 4}]", "takes keys"),
        ("objective=[{kd: {temperature: -1}}]", "temperature above 0, found -1"),
        ("objective=[{kd: {temperature: '4'}}]", "a number or a schedule"),
        ("objective=[{kd: {weight: high}}]", "a number or a schedule"),
        ("objective=[{kd: {weight: {linaer: [1, 0]}}}]", "Did you mean linear"),
        ("objective=[{kd: {weight: {linear: [1]}}}]", "missing 1 required positional argument"),
        ("objective=[{kd: {weight: {linear: {strat: 1}}}}]", "unexpected keyword argument 'strat'"),
        ("objective=[{kd: {weight: {until: 2}}}]", "0 < end"),
        ("objective=[{kd: {weight: {step: 3}}}]", "no constructor|object is not iterable|Step"),
        ("objective=[{kd: {weight: {linear: [1, 0], until: 1}}}]", "one name and its values"),
        ("objective=[{kd: {weight: {until: 0.5}}}]", "No term of"),
        ("objective=[{hidden_mse: {pooling: sum}}]", "pooling"),
        ("objective=[{cross_entropy: {class_weights: 2}}]", "a list or a mapping or null"),
        ("measure={basline: true}", "Did you mean baseline"),
        ("measure={baseline: 'yes'}", "true or false"),
        ("export={max_drop: much}", "a number"),
        ("export={folder: x}", "no key of export 'folder'"),
        ("measures={}", "there is no section 'measures'. Did you mean measure"),
        ("training=null", "lacks output_dir"),
        ("training.output_dir=null", "lacks output_dir"),
        ("objective=[cross_entropy, exit_cross_entropy]", "the student has none. Add `exits: {layers: all}`"),
        ("student={shrink: {layers: 3}, prune_vocabulry: {keep: 0.9}}", "Did you mean prune_vocabulary?"),
        ("student={shrink: {layers: 3}, static: {width: 8}}", "one kind and its arguments, found 2 keys"),
        ("student={exits: {layers: all}}", "one kind and its arguments, found 0 keys"),
        ("student={static: {width: 8}, exits: {layers: all}}", "a static student has none. Leave it out"),
        ("student={shrink: {layers: [1], choose: importance}}", "lacks how many. Type layers: 3."),
        ("student.shrink.choose=best", "one of evenly, importance"),
        ("student.shrink.fit=nowhere.txt", "there is no file or folder 'nowhere.txt'. Type fit: true"),
        ("student.shrink.fit=5", "5 is no number of texts to fit weights to. Type fit: true"),
        ("student.bilstm={width: 3}", "found 2 keys"),
        ("student={bilstm: {width: 3}}", "no argument of bilstm 'width'"),
        ("assistants={shrink: {layers: 4}}", "is a list of students"),
        ("assistants=[{shrimk: {layers: 4}}]", "assistants[0].shrimk: there is no student 'shrimk'. Did you"),
        ("generations=0", "Type how often to train: from 1 up."),
        ("generations=two", "it is a whole number"),
        ("teacher_cache=7", "it is text or a path or null"),
        ("label_map=LABEL_0", "it is a mapping or null"),
        ("data.unlabelled=7", "it is text or a mapping or null"),
        ("data.unlabelled={source: x, label: y}", "no argument of unlabelled 'label'"),
        ("data.unlabelled={text: y}", "lacks source"),
        ("data.unlabelled={source: x, rows: 0}", "rows is 0"),
        ("data.labelled_rows=0", "labelled_rows is 0"),
        ("teacher={peer: {model: x, layer: 2}}", "Did you mean layers?"),
        ("data.augment=[delete, swop]", "there is no augmentation 'swop'. Did you mean swap?"),
        ("data.augment=[{delete: {q: 1}}]", "no argument of delete 'q'"),
        ("data.augment=[[delete]]", "is not an augmentation"),
        ("data.augment=delete", "it is a list or null"),
        ("data.augment=[mask]", "lacks mask_token"),
        ("data.copies=0", "copies is 0"),
        ("theseus={rat: 1}", "Did you mean rate?"),
        ("theseus={rate: {linaer: [0, 1]}}", "Did you mean linear?"),
        ("student.shrink.data=two", "no argument of shrink 'data'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_what_to_type(tmp_path, override, match):
    said = mistakes(tmp_path, GOOD, override)
    assert len(said) == 1, said
    assert any(part in said[0] for part in match.split("|")), said


@pytest.mark.parametrize("kind", ["bilstm", "cnn", "static"])
@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointing_of_a_student_without_blocks_is_a_mistake_of_the_page(tmp_path, kind, name):
    said = mistakes(tmp_path, GOOD, f"student={{{kind}: {{}}}}", f"training.{name}=true", "objective=[KD]")
    assert len(said) == 2, said
    assert (
        f"training.{name}: computes blocks twice to save memory, and a {kind} student has none." in said[-1]
    )
    assert read(tmp_path, GOOD, f"training.{name}=true").training[name] is True


def test_what_is_missing_is_said_at_once(tmp_path):
    said = mistakes(tmp_path, "objective: [kd]\n")
    assert [line for line in said if "lacks the section" in line] == said[:4]
    assert mistakes(tmp_path, "- 1\n") == [
        "page.yaml: holds no sections. Write teacher, student, data, training, as recipes/kd.yaml does."
    ]
    assert len(mistakes(tmp_path, "")) == 1


def test_a_teacher_is_named_where_the_objective_learns_from_one(tmp_path):
    said = mistakes(tmp_path, GOOD.replace("some/teacher", "null") + "objective: [kd]\n")
    assert len(said) == 2
    assert "learns from a teacher, and there is none" in said[1]
    assert "'shrink' is made of one teacher, and there is none" in said[0]


def test_answers_of_a_teacher_that_changes_are_not_kept(tmp_path):
    (said,) = mistakes(tmp_path, GOOD, "teacher={peer: {model: x}}", "teacher_cache=answers")
    assert "those of peer change with every step" in said


def test_a_chain_needs_no_teacher_for_its_first_student(tmp_path):
    alone = GOOD.replace("some/teacher", "null").replace("shrink: {", "shrink: {source: some/model, ")
    assert read(tmp_path, alone + "generations: 2\nobjective: [kd]\n").generations == 2
    assert len(mistakes(tmp_path, alone + "generations: 1\nobjective: [kd]\n")) == 1
    assert mistakes(tmp_path, alone + "generations: two\n") == [
        "page.yaml, line 7: generations: found 'two', but it is a whole number. Type a whole number."
    ]
    found = read(tmp_path, GOOD, "assistants=[{shrink: {layers: 4}}, some/model]")
    assert found.assistants == (
        Student("shrink", {"layers": 4}),
        Student("pretrained", {"source": "some/model"}),
    )


def test_names_cannot_bring_lines_or_controls_into_a_message(tmp_path):
    (said,) = mistakes(tmp_path, GOOD + '"a\\nb\\e[31m": 1\n')
    assert "\n" not in said
    assert "\x1b" not in said


def test_a_registered_objective_is_found(tmp_path):
    @register("squeak")
    class Squeak(Objective):
        """Says nothing."""

        def __init__(self, *, loud: bool = False) -> None:
            super().__init__()
            self.loud = loud

    try:
        found = read(tmp_path, GOOD, "objective=[{squeak: {weight: 2, loud: true}}]").objective
        assert str(found) == "2 * Squeak(loud=True)"
        (said,) = mistakes(tmp_path, GOOD, "objective=[{squeak: {lout: true}}]")
        assert "Did you mean loud?" in said
    finally:
        from hfdistill.objectives import base

        del base._REGISTER["squeak"]


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("teacher=out/student", "teacher.pretrained"),
        ("teacher={pretrained: {source: out/student/checkpoint-4}}", "teacher.pretrained"),
        ("teacher={finetune: {encoder: out/teacher}}", "teacher.finetune"),
        ("teacher={ensemble: {members: [a/b, out/baseline]}}", "teacher.ensemble"),
        ("student.shrink.source=out/assistant-1", "student.shrink"),
    ],
)
def test_no_run_writes_over_what_it_reads(tmp_path, monkeypatch, override, place):
    """The student of an earlier run, as the teacher in the same folder, was lost without a word."""
    monkeypatch.chdir(tmp_path)
    for name in ("student/checkpoint-4", "baseline", "teacher", "assistant-1"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (mistake,) = mistakes(tmp_path, GOOD, override)
    assert place in mistake
    assert "is a folder that this run writes, and what is read there would be lost" in mistake
    read(tmp_path, GOOD, override, "training.output_dir=other")


def test_a_run_reads_what_it_does_not_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "teacher").mkdir(parents=True)
    read(tmp_path, GOOD, "teacher=out/teacher")
    read(tmp_path, GOOD, "teacher=out/student")  # no such folder: a Hub id
