"""`import hfdistill`: its names, what it costs, and the architectures that Transformers then knows."""

import copy
import os
import pickle
import resource
import statistics
import subprocess
import sys
import types
from pathlib import Path

import pytest

import hfdistill
from tests.conftest import make_bert, make_tokenizer

ROOT = Path(__file__).parents[1]
BROKEN = (
    "teacher: some/teacher\nstudent: {shrimk: {layers: 3}}\ndata: some/data\ntraining: {output_dir: out}\n"
)


def python(*words, cwd=None):
    """What a fresh process prints, and the seconds of CPU that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds(*words):
    return statistics.median(python(*words)[1] for _ in range(5))


def costs_less_than(limit, *words, cwd=None):
    """Whether one of up to 5 starts takes less CPU than that: what else a machine does only adds to it."""
    return any(python(*words, cwd=cwd)[1] < limit for _ in range(5))


def test_the_package_loads_no_framework_before_a_name_is_asked_for(fresh):
    done, _ = python(
        "-c",
        "import sys, hfdistill; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules); "
        "assert set(hfdistill.__all__) <= set(dir(hfdistill)); assert not hasattr(hfdistill, 'nothing'); "
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)",
    )
    assert done.returncode == 0, done.stderr
    code = "import sys, hfdistill; hfdistill.KD; assert not {'transformers', 'datasets'} & set(sys.modules)"
    done = fresh(code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_is_no_module():
    assert type(hfdistill) is types.ModuleType
    assert len(hfdistill.__all__) == len(set(hfdistill.__all__)) >= 107
    for name in hfdistill.__all__:
        value = getattr(hfdistill, name)
        assert value is not None
        assert not isinstance(value, types.ModuleType), name
        assert copy.copy(value) is value
        assert pickle.loads(pickle.dumps(value)) is value
    assert not {path.stem for path in Path(ROOT, "hfdistill").iterdir()} & set(hfdistill.__all__)


def test_a_star_gives_every_public_name():
    names = {}
    exec("from hfdistill import *", names)  # noqa: S102
    assert {name: getattr(hfdistill, name) for name in hfdistill.__all__} == {
        name: value for name, value in names.items() if name != "__builtins__"
    }


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """A folder of each architecture that is the package's own."""
    folder, tokenizer, teacher = tmp_path_factory.mktemp("students"), make_tokenizer(), make_bert(2)
    made = {
        "static": hfdistill.static_from_teacher(teacher, tokenizer, width=8),
        "cnn": hfdistill.cnn_from_teacher(teacher, tokenizer),
        "bilstm": hfdistill.bilstm_from_teacher(teacher, tokenizer),
        "exits": hfdistill.with_exits(teacher),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


IMPORTS = {
    "ours alone": (
        "import hfdistill; from transformers import pipeline\n"
        "for path in ('static', 'cnn', 'bilstm', 'exits'): "
        "pipeline('text-classification', path)('a good film')"
    ),
    "Transformers first": (
        "from transformers import AutoModelForSequenceClassification as Auto; import hfdistill\n"
        "for path in ('static', 'cnn', 'bilstm', 'exits'): Auto.from_pretrained(path)"
    ),
    # Transformers imports its registry halfway through the module of `PreTrainedModel`
    "an unpickled config": (
        "import pickle, hfdistill, transformers.modeling_utils\n"
        "config = pickle.load(open('config', 'rb'))\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "assert type(Auto.from_config(config)).__name__ == 'BiLSTMForSequenceClassification'"
    ),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_own_architectures_are_known_in_whatever_order_is_imported(students, fresh, name):
    (students / "config").write_bytes(pickle.dumps(hfdistill.BiLSTMConfig()))
    done = fresh(IMPORTS[name], cwd=students)
    assert done.returncode == 0, done.stderr


def test_what_the_import_and_the_help_cost():
    assert costs_less_than(0.3, "-c", "import hfdistill")
    assert costs_less_than(0.5, "-m", "hfdistill", "--help")


def test_what_the_mistakes_of_a_page_cost(tmp_path):
    (tmp_path / "broken.yaml").write_text(BROKEN)
    assert costs_less_than(3, "-m", "hfdistill", "train", "broken.yaml", cwd=tmp_path)


@pytest.mark.slow
def test_the_trainer_costs_hardly_more_than_that_of_transformers():
    ours, theirs = (
        seconds("-c", f"from {package} import {name}")
        for package, name in (("hfdistill", "DistillationTrainer"), ("transformers", "Trainer"))
    )
    assert ours <= 1.15 * theirs
