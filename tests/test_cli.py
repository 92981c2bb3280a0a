"""The command line, as a shell starts it and from within."""

import json
import os
import re
import time

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

import hfdistill
from hfdistill.cli import _parser, main
from hfdistill.cli.data_flags import rows as rows_of
from hfdistill.objectives import base, registered
from tests.distributed.launched import GLOO_THREADS, ROOT, launch
from tests.recipe import material

BROKEN = """teacher: some/teacher
student:
  shrimk: {layers: 3}
data: {source: some/data, on_bad_row: skip}
objective:
  - kd: {weight: 0.5, temprature: 4}
  - hidden_mse: {layers: unifrom}
training:
  output_dir: out
  evaluation_strategy: epoch
"""
FIXES = [
    "Did you mean shrink?",
    "one of raise, drop",
    "Did you mean temperature?",
    "Write 'uniform'",
    "eval_strategy?",
]
GOOD = """teacher: teacher
student:
  shrink: {layers: 2}
data: two
training: {output_dir: out, max_steps: 2, use_cpu: true}
measure: {speed: false}
"""

pytestmark = pytest.mark.usefixtures("dots")


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return material.make(tmp_path_factory.mktemp("things"))


@pytest.fixture
def here(things, tmp_path, monkeypatch):
    for path in things.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "broken.yaml").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_five_mistakes_five_lines_five_fixes(here, capsys):
    assert main(["train", "broken.yaml"]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 5
    for line, fix in zip(lines, FIXES, strict=True):
        assert line.startswith("broken.yaml, line ")
        assert fix in line


def test_a_page_is_checked_without_transformers(here, fresh):
    code = (
        "import sys; from hfdistill.cli import main; "
        "code = main(['train', 'broken.yaml']); "
        "assert 'transformers' not in sys.modules and 'datasets' not in sys.modules; sys.exit(code)"
    )
    done = fresh(code, cwd=here)
    assert done.returncode == 2, done.stderr


def test_help_is_there_at_once(here):
    started = time.process_time()
    for words in ([], ["train"], ["cache"], ["measure"], ["export"], ["list"]):
        with pytest.raises(SystemExit) as caught:
            main([*words, "--help"])
        assert caught.value.code == 0
    assert time.process_time() - started < 1


AT_THE_END = f"""
import atexit, gc, os, sys
sys.modules["matplotlib"] = None  # pictures are drawn in test_write_plots
gc.set_threshold(50_000, 20, 20)  # of the suite: the imports leave no garbage
{GLOO_THREADS}
if "RANK" in os.environ:  # what is registered first runs last
    atexit.register(lambda: print("threads of gloo at the end:", threads(), flush=True))
"""


@pytest.mark.distributed
def test_train_on_two_processes(here):
    (here / "site").mkdir()
    (here / "site" / "sitecustomize.py").write_text(AT_THE_END)
    names = {"teacher": "teacher", "data": "two", "training.output_dir": "o"}
    overrides = [f"{key}={here / name}" for key, name in names.items()]
    words = ["-m", "hfdistill", "train", str(here / "good.yaml"), *overrides]
    done = launch(*words, PYTHONPATH=os.pathsep.join([str(here / "site"), str(ROOT)]))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("threads of gloo at the end: 0") == 2
    assert done.stdout.count("accuracy  macro F1") == 1
    assert (here / "o" / "student" / "model.safetensors").is_file()


def test_smoke_and_check(here, capsys):
    assert main(["train", "good.yaml", "--check"]) == 0
    assert capsys.readouterr().out == "good.yaml: no mistakes found\n"
    assert not (here / "out").exists()
    assert main(["train", "good.yaml", "--smoke"]) == 0
    assert [path.name for path in (here / "out").iterdir()] == ["smoke"]


def test_cached_answers_teach_as_the_live_teacher_does(here, capsys):
    assert main(["cache", "teacher", "answers", "--data", "two", "--streaming"]) == 0
    assert re.fullmatch(r"answers: the teacher's answers to \d+ texts\n", capsys.readouterr().out)
    shards = sorted(here.glob("answers/*/shard-*"))
    assert main(["cache", "teacher", "answers", "--data", "two"]) == 0
    assert sorted(here.glob("answers/*/shard-*")) == shards
    assert capsys.readouterr().out == "answers: the teacher's answers to 64 rows\n"
    words = [
        "train",
        "good.yaml",
        "objective=[{cross_entropy: {weight: 0.5}}, {kd: {weight: 0.5}}]",
        "measure=null",
    ]
    assert main([*words, "training.output_dir=live"]) == 0
    teacher = "teacher={cached: {folder: answers, teacher: teacher}}"
    assert main([*words, teacher, "training.output_dir=cached"]) == 0
    live, cached = (load_file(here / name / "student" / "model.safetensors") for name in ("live", "cached"))
    assert max(float((live[name] - cached[name]).abs().max()) for name in live) < 1e-5


def test_measure_prints_and_writes_a_report(here, capsys):
    words = [
        "measure",
        "teacher",
        "--data",
        "two",
        "--teacher",
        "teacher",
        "--no-speed",
        "--out",
        "report.json",
    ]
    assert main([*words, "--rows", "10", "--max-length", "9"]) == 0
    assert "agreement" in capsys.readouterr().out
    report = hfdistill.Report.load("report.json")
    assert (report.data.rows, report.data.max_length) == (10, 9)
    assert report.student.fidelity["agreement"] == 1


def test_how_files_are_to_be_read_is_said_by_flags(tmp_path):
    (tmp_path / "a.csv").write_bytes('text^a^b\n"caf\u00e9^1^0\nb^0^0\n'.encode("cp1252"))
    words = ["--data", str(tmp_path / "a.csv"), "--encoding", "cp1252", "--delimiter", "^", "--no-quotes"]
    args = _parser().parse_args(["measure", "student", *words, "--label", "b", "--label", "a"])
    assert rows_of(args).to_list() == [
        {"text": '"caf\u00e9', "label": [0.0, 1.0]},
        {"text": "b", "label": [0.0, 0.0]},
    ]


def test_list_shows_a_line_for_each(here, capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in (*registered(), "finetune", "shrink", "linear"):
        assert f"\n  {name} " in said
    for line in said.splitlines():
        assert line.endswith(":") or len(line.split()) > 3, line
    assert main(["list", "students"]) == 0
    assert "teachers" not in capsys.readouterr().out


def test_list_sizes_are_those_of_the_students(here, capsys):
    assert main(["list", "sizes", "--model", "teacher"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    student = hfdistill.shrink("teacher", layers=2).num_parameters()
    assert f"{student / 1e6:.2f} M parameters" in lines[2]
    assert "(100% of the teacher's)" in lines[4]


def test_a_plugin_of_ones_own_names_an_objective(here, capsys, monkeypatch):
    (here / "mine.py").write_text(
        "from hfdistill import Objective, register\n\n\n"
        "@register('lead_of_mine')\nclass Lead(Objective):\n"
        "    '''The student leads as the teacher does.'''\n\n"
        "    def forward(self, student, teacher, labels):\n"
        "        lead = [t.logits.topk(2).values.diff().squeeze(-1) for t in (student, teacher)]\n"
        "        return (lead[0] - lead[1]).abs().mean()\n"
    )
    page = GOOD + "objective: [{lead_of_mine: {weight: 0.5}}, {kd: {weight: 0.5}}]\n"
    (here / "page.yaml").write_text(page)
    monkeypatch.setattr(base, "_REGISTER", dict(base._REGISTER))
    assert main(["train", "page.yaml"]) == 2
    assert "there is no objective 'lead_of_mine'" in capsys.readouterr().err
    assert main(["train", "page.yaml", "--plugin", "mine.py", "--smoke"]) == 0
    (report,) = here.glob("out*/**/report.json")
    assert "0.5 * Lead()" in json.loads(report.read_text())["notes"]["objective"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "good.yaml", "--plugin", "none.py"], "there is no such file"),
        (["train", "good.yaml", "data={source: two, evaluation: dev}"], "no split 'dev'"),
        (["measure", "teacher", "--data", "nowhere"], "cannot be reached"),
        (["measure", "teacher", "--data", "two", "--split", "dev"], "no split 'dev'"),
        (["list", "sizes"], "--model"),
        (["export", "teacher", "teacher", "--data", "two"], "holds other things"),
    ],
)
def test_errors_are_one_line_without_a_traceback(here, capsys, words, said):
    assert main(words) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(err) == 1
    assert said in err[0]


COMMANDS = """
import gc, json, os, runpy, sys
import datasets, evaluate, transformers.trainer  # nothing of hfdistill: each command brings it
gc.freeze()
for words in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        sys.argv = ["hfdistill", *words]
        runpy.run_module("hfdistill", run_name="__main__", alter_sys=True)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{words[0]} failed")
"""


def test_from_a_shell_every_command_knows_students_of_its_own(here, fresh):
    """Each in a process that has imported nothing of the package: here the tests have imported everything."""
    teacher, tokenizer = hfdistill.load_classifier("teacher"), AutoTokenizer.from_pretrained("teacher")
    hfdistill.static_from_teacher(teacher, tokenizer, width=8).save_pretrained("static")
    tokenizer.save_pretrained("static")
    measure = ["measure", "static", "--data", "two", "--no-speed"]
    train = ["train", "good.yaml", "training.seed=7", "student=static"]
    done = fresh(COMMANDS, json.dumps([measure, train]), cwd=here)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "student minus teacher" in done.stdout
    assert (
        json.loads((here / "out" / "student" / "config.json").read_text())["model_type"] == "hfdistill-static"
    )
    assert "seed: 7" in (here / "out" / "student" / "recipe.yaml").read_text()


def test_overrides_may_stand_behind_flags(here, capsys):
    assert main(["train", "good.yaml", "training.seed=1", "--check", "training.sed=2"]) == 2
    assert "training.sed" in capsys.readouterr().err
    for words in (["train", "good.yaml", "--chek"], ["measure", "a", "--data", "two", "b=1"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2


@pytest.mark.parametrize(
    "error",
    [
        hfdistill.CacheError("x"),
        hfdistill.CheckpointError("x"),
        hfdistill.NonFiniteError("x"),
        ModuleNotFoundError("x"),
        TypeError("x"),
    ],
)
def test_no_error_of_the_library_is_a_traceback(here, capsys, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("hfdistill.recipe.run.run_recipe", fails)
    assert main(["train", "good.yaml"]) == 1
    assert capsys.readouterr().err == "error: x\n"


def test_other_processes_stay_silent(here, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "broken.yaml"]) == 2
    assert capsys.readouterr().err == ""
