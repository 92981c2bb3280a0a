"""What a run says: phases, losses, accuracy per epoch, what was made and what to type; nothing of others."""

import logging
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import transformers
from transformers import AutoConfig

from hfdistill import DistillationTrainer
from hfdistill.cli import main
from hfdistill.evaluation.report import Report
from hfdistill.recipe import read_recipe
from hfdistill.recipe.outcome import _flag
from hfdistill.recipe.run import Interrupted, run_recipe
from hfdistill.recipe.terminal import FrequentCheckpoints, Progress, Terminal, quiet_libraries
from tests.conftest import make_sentences

PAGE = """teacher: {finetune: {encoder: encoder, epochs: 1}}
student:
  shrink: {layers: 2, fit: false}
data: {source: reviews.csv, text: review, label: verdict, holdout: 0.25}
training: {output_dir: out, max_steps: 12, per_device_train_batch_size: 4, use_cpu: true}
measure: {speed: false, baseline: true}
"""
pytestmark = pytest.mark.usefixtures("unrehearsed")
EPOCHS_OF_TWO_STEPS = ["training.per_device_train_batch_size=16"]


def run(*overrides):
    return run_recipe(read_recipe("page.yaml", overrides=overrides))


def test_a_session_reads_from_the_first_phase_to_what_to_type_next(here, capfd):
    run()
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert lines[0] == "reviews.csv: 30 rows to learn from, 10 kept back to measure on"
    headings = [line for line in lines if re.match(r"\d/\d ", line)]
    assert [line.split(":")[0] for line in headings] == [
        "1/4 teacher", "2/4 student", "3/4 baseline", "4/4 measure",
    ]  # fmt: skip
    assert headings[1].startswith("2/4 student: 2 of 4 layers, ")
    assert headings[1].endswith(" M parameters, 12 steps")
    inside = lines[lines.index(headings[1]) : lines.index(headings[2])]
    assert sum("loss" in line and "step" in line for line in inside) >= 10
    assert any("cross_entropy" in line and "kd" in line for line in inside)
    assert sum(bool(re.match(r"  epoch [\d.]+: accuracy [\d.]+ %, loss", line)) for line in inside) == 2
    commands = lines[lines.index("Next:") + 1 :]
    assert [line.split()[1] for line in commands[:3]] == ["predict", "measure", "export"]
    assert "--teacher out/teacher --baseline out/baseline" in commands[1]
    made = "  transformers.pipeline('text-classification', model='out/student', truncation=True)  # in Python"
    assert commands[3] == made
    assert "LOAD REPORT" not in err
    assert "it/s" not in err
    assert "%|" not in err
    assert out.count("macro F1") == 1
    assert all(len(line) <= 100 for line in err.splitlines() if not line.startswith("  hfdistill"))


def test_the_commands_that_are_told_at_the_end_run(here, capsys):
    run("measure={speed: false}", "training.max_steps=1")
    commands = [
        line.split() for line in capsys.readouterr().err.splitlines() if " hfdistill measure " in line
    ]
    (words,) = commands
    assert main([*words[1:], "--no-speed"]) == 0
    assert "10 rows" in capsys.readouterr().out


def test_a_file_of_several_labels_goes_from_init_to_a_measured_student(here, capsys):
    rows = [
        f"{text};{label};{(i // 3) % 2};{i};caf\xe9" for i, (text, label) in enumerate(make_sentences(40))
    ]
    Path("flags.csv").write_bytes("\n".join(["note;good;long;id;where", *rows, ""]).encode("cp1252"))
    flags = ["--label", "good", "--label", "long", "--encoding", "cp1252", "--delimiter", ";"]
    init = ["init", "flags.csv", "--text", "note", "--encoder", "encoder", "--page", "flags.yaml"]
    assert main([*init, *flags]) == 0
    overrides = ["training.max_steps=2", "training.use_cpu=true", "student.shrink.layers=2"]
    report = run_recipe(read_recipe("flags.yaml", overrides=[*overrides, "measure={speed: false}"]))
    assert report.task == "multi_label"
    for model in ("teacher", "student"):
        config = AutoConfig.from_pretrained(f"out/flags/{model}")
        assert config.problem_type == "multi_label_classification"
        assert config.id2label == {0: "good", 1: "long"}
    assert [entry.label for entry in report.classes] == ["good", "long"]
    said = [
        shlex.split(line) for line in capsys.readouterr().err.splitlines() if line.startswith("  hfdistill")
    ]
    commands = {words[1]: words[1:] for words in said}
    assert report.data.name == "flags.csv"
    assert commands["export"][-2:] == commands["predict"][-4:-2] == ["--max-length", "32"]
    assert commands["predict"][3:-4] == ["--text", "note", "--encoding", "cp1252", "--delimiter", ";"]
    assert main([*commands["measure"], "--no-speed", "--out", "again.json"]) == 0
    again = Report.load("again.json")
    assert again.student.scores == pytest.approx(report.student.scores)


def test_a_command_has_the_words_that_a_page_says():
    assert _flag("label", "verdict") == ["--label", "verdict"]
    assert _flag("label", ["good", "long"]) == ["--label", "good", "--label", "long"]
    assert _flag("label_names", ["no", "yes"]) == ["--label-names", "no", "yes"]
    assert _flag("quotes", False) == ["--no-quotes"]
    assert _flag("quotes", True) == ["--quotes"]
    assert _flag("on_bad_row", "drop") == ["--on-bad-row", "drop"]
    assert _flag("encoding", None) == []


def test_a_warning_is_printed_once_and_on_one_line(capsys):
    logger = logging.getLogger("hfdistill.data.encode")
    with quiet_libraries():
        for _ in range(3):
            logger.warning("%d rows\nwere cut", 3)
        logger.warning("4 rows were cut")
    assert capsys.readouterr().err == "! 3 rows\\nwere cut\n! 4 rows were cut\n"
    with quiet_libraries():
        logger.warning("4 rows were cut")
    assert capsys.readouterr().err == "! 4 rows were cut\n"


def test_the_libraries_speak_as_before_once_a_run_is_over(here):
    before = transformers.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    with quiet_libraries():
        assert transformers.utils.logging.get_verbosity() == logging.ERROR
        assert datasets.are_progress_bars_disabled()
    assert (transformers.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before


def test_a_teacher_with_nothing_to_teach_is_told_again_at_the_end_and_on_the_card(here, untrained, capsys):
    run("teacher=untrained", "training.max_steps=1", "measure={speed: false}")
    err = capsys.readouterr().err
    assert "It has nothing to teach" in " ".join(err.partition("measure: 10 rows")[2].split())
    assert "It has nothing to teach" in Path("out/student/README.md").read_text()


@pytest.fixture
def untrained(here):
    """A teacher that answers the same class whatever it reads."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(here / "teacher")
    model.config.id2label, model.config.label2id = {0: "bad", 1: "good"}, {"bad": 0, "good": 1}
    model.classifier.weight.data.zero_()
    model.save_pretrained(here / "untrained")
    transformers.AutoTokenizer.from_pretrained(here / "teacher").save_pretrained(here / "untrained")


def stopping(at):
    """`DistillationTrainer.train` with Ctrl-C pressed behind some step of the student."""
    real = DistillationTrainer.training_step

    def training_step(trainer, *args, **kwargs):
        if trainer.args.output_dir.endswith("student") and trainer.state.global_step == at:
            raise KeyboardInterrupt
        return real(trainer, *args, **kwargs)

    return training_step


def test_ctrl_c_says_in_one_line_what_is_saved_and_from_where_the_same_command_goes_on(
    here, capsys, monkeypatch
):
    page = ["train", "page.yaml", "measure=null", "training.eval_strategy=no"]
    with monkeypatch.context() as patched:
        patched.setattr(DistillationTrainer, "training_step", stopping(at=9))
        assert main(page) == 130
    *_, last = capsys.readouterr().err.splitlines()
    found = re.fullmatch(
        r"Stopped at step 9 of 12 of the student\. out/student/checkpoint-(\d+) is saved; "
        r"the same command goes on from step (\d+)\.",
        last,
    )
    assert found, last
    assert found[1] == found[2]
    assert int(found[1]) >= 8  # an epoch has 8 steps
    assert main(page) == 0
    err = capsys.readouterr().err
    assert "1/2 teacher: 4 layers, 0.0104 M parameters: is finished, at step 8 of 8 steps" in err
    assert f"12 steps, goes on from step {found[1]}" in err
    assert main([*page, "training.output_dir=straight"]) == 0
    weights = [Path(out, "student", "model.safetensors").read_bytes() for out in ("out", "straight")]
    assert weights[0] == weights[1]


def test_ctrl_c_before_a_checkpoint_and_outside_of_training(here, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(
            DistillationTrainer, "train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(
            Interrupted, match=r"before a checkpoint was saved; the same command begins the teacher"
        ):
            run()
    monkeypatch.setattr(
        "hfdistill.recipe.outcome.measure", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(Interrupted, match=r"What is trained so far is in out, and the same command goes on"):
        run("training.max_steps=1")


def test_a_checkpoint_is_saved_each_epoch_and_after_some_minutes(here):
    run("measure=null", *EPOCHS_OF_TWO_STEPS, "training.max_steps=3", "training.save_total_limit=9")
    checkpoints = sorted(path.name for path in Path("out/student").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-2", "checkpoint-3"]
    often, control = FrequentCheckpoints(seconds=-1), transformers.TrainerControl()
    state, args = (
        transformers.TrainerState(global_step=3),
        transformers.TrainingArguments("out", use_cpu=True),
    )
    often.on_train_begin(args, state, control)
    often.on_step_end(args, state, control)
    assert control.should_save
    often.on_save(args, state, control)
    control.should_save = False
    often.on_epoch_end(args, state, control)
    assert not control.should_save


def test_two_checkpoints_stay_and_a_page_may_want_none(here):
    run("measure=null", *EPOCHS_OF_TWO_STEPS, "training.max_steps=7")
    assert len(list(Path("out/student").glob("checkpoint-*"))) == 2
    run("measure=null", "training.output_dir=none", "training.max_steps=1", "training.save_strategy=no")
    assert not list(Path("none").rglob("checkpoint-*"))


def test_other_processes_and_searches_say_nothing(capsys):
    Terminal(1, speaks=False).heading("x")
    assert capsys.readouterr().err == ""
    Terminal(1).line("a\nb", indent=2)
    assert capsys.readouterr().err == "  a\\nb\n"


def test_a_callback_of_a_page_is_one_of_transformers():
    assert isinstance(Progress(Terminal(1), "x"), transformers.TrainerCallback)


def test_a_recording_is_announced_before_the_phase_that_learns_from_it(here, capfd):
    run("teacher_cache=answers", "objective=[{kd: {}}]", "measure=null")
    lines = capfd.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("the teacher answers ")]
    assert said[0] == "the teacher answers 30 of 30 rows, once; its answers go to answers"
    assert lines.index(said[0]) < next(row for row, line in enumerate(lines) if " student: " in line)
    assert not [line for line in lines if line.startswith("! the teacher answers")]


def test_the_commands_name_columns_and_split_where_no_rows_were_kept_back(here, capsys):
    Path("named").mkdir()
    for split in ("train", "validation"):
        rows = datasets.Dataset.from_parquet(f"two/{split}.parquet").rename_columns(
            {"text": "body", "label": "kind"}
        )
        rows.to_parquet(f"named/{split}.parquet")
    run("data={source: named, text: body, label: kind}", "measure={speed: false}", "training.max_steps=1")
    (command,) = [line for line in capsys.readouterr().err.splitlines() if " hfdistill measure " in line]
    assert "--data named --split validation --text body --label kind" in command
    assert main([*command.split()[1:], "--no-speed"]) == 0


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch, capsys):
    progress = Progress(Terminal(1), "student")
    state = SimpleNamespace(global_step=2, max_steps=10, is_world_process_zero=True)
    progress.on_train_begin(None, state, None)
    assert progress.bar is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress.on_train_begin(None, state, None)
    assert (progress.bar.n, progress.bar.total) == (2, 10)
    state.global_step = 5
    progress.on_step_end(None, state, None)
    assert progress.bar.n == 5
    progress.on_train_end(None, state, None)
    assert progress.bar is None
    assert "student, 10 steps, goes on from step 2" in capsys.readouterr().err
    Terminal(1, speaks=False).command("hfdistill predict")
    assert capsys.readouterr().err == ""
