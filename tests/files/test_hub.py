"""A student published to a Hub on loopback, and pulled from it by a process that knows nothing of it."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import hfdistill
from hfdistill import PublishError, push_to_hub
from hfdistill.cli import main
from hfdistill.files.hub import published, publishing, reaching
from tests.conftest import make_bert, make_report, make_tokenizer
from tests.files.hub_server import HubServer, connected

# huggingface_hub 2.4 uploads by an argument that its HTTP library has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ROOT = Path(__file__).parents[2]
SECRET = "hf_" + "sentinel" * 4
PULL = """
import json, sys
from transformers import AutoModelForSequenceClassification, pipeline
model = AutoModelForSequenceClassification.from_pretrained("me/student")
model.save_pretrained("pulled")
print(json.dumps(pipeline("text-classification", model="me/student")("a warm film")))
assert "hfdistill" not in sys.modules
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A student's folder as a run leaves it, with what must not be published beside it."""
    folder = tmp_path_factory.mktemp("made") / "student"
    make_bert(2, seed=2).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    report = make_report({"objective": "KD()"})
    report.save(folder / "report.json")
    hfdistill.write_card(folder, report, base_model="me/teacher", dataset="me/films")
    (folder / "recipe.yaml").write_text("student: {shrink: {layers: 2}}\n")
    (folder / "calibration.png").write_bytes(b"\x89PNG\r\n\x1a\n drawn")
    torch.save({"lr": 0.1}, folder / "training_args.bin")
    torch.save({"lr": 0.1}, folder / "scaler")
    (folder / "state[1].dat").write_bytes(pickle.dumps({"a": 1}))
    (folder / ".env").write_text(f"HF_TOKEN={SECRET}")
    (folder / "checkpoint-2").mkdir()
    torch.save({}, folder / "checkpoint-2" / "optimizer.pt")
    (folder / "runs").mkdir()
    (folder / "runs" / "events.out.tfevents.0.machine").write_bytes(b"logged")
    return folder


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"\x08\x07 a graph")
    (folder / "card.json").write_text("{}")
    return folder


@pytest.fixture
def hub(monkeypatch):
    with HubServer(token=SECRET) as server:
        connected(monkeypatch, server)
        yield server


def python(fresh, code, server, folder, **more):
    """A new interpreter that knows the Hub by its environment alone."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTEST_"))}
    environment |= {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_TOKEN": SECRET, "OMP_NUM_THREADS": "1", **more}
    done = fresh(code, cwd=folder, environment=environment)
    assert SECRET not in done.stdout + done.stderr
    return done


def leaks(folder):
    return [p for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_pushed_and_pulled_through_a_server_the_student_is_the_same_to_the_bit(
    made, exported, tmp_path, fresh, hub, capsys
):
    assert main(["push", str(made), "me/student", "--onnx", str(exported)]) == 0
    printed = capsys.readouterr()
    assert f"{hub.endpoint}/me/student" in printed.out
    assert SECRET not in printed.out + printed.err
    pulled = python(fresh, PULL, hub, tmp_path)
    assert pulled.returncode == 0, pulled.stderr[-3000:]
    files = hub.repositories["me/student"]
    assert json.loads(pulled.stdout.splitlines()[-1])[0]["label"] in ("negative", "positive")
    here, there = load_file(made / "model.safetensors"), load_file(tmp_path / "pulled" / "model.safetensors")
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)
    kept = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    kept |= {"report.json", "recipe.yaml", "calibration.png", "onnx/model.onnx", "onnx/card.json"}
    assert set(files) == kept
    assert all(SECRET.encode() not in content for content in files.values())
    assert leaks(tmp_path) == []
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == "me/teacher"
    assert 'model="me/student"' in card.text
    assert 'model="path/to/this/folder"' in (made / "README.md").read_text()
    assert files["report.json"] == (made / "report.json").read_bytes()


def test_no_file_that_is_a_pickle_is_published_whatever_its_name(made):
    assert not {"training_args.bin", "scaler", "state[1].dat"} & set(published(made))
    assert not any(name.startswith(("checkpoint", ".")) for name in published(made))


def test_weights_whose_first_bytes_look_like_a_pickle_are_published(tmp_path):
    weights = tmp_path / "model.safetensors"
    for length in (0x280, 0x380, 0x480, 0x580):
        empty = len(json.dumps({"__metadata__": {"a": ""}}, separators=(",", ":")))
        save_file({}, weights, metadata={"a": "x" * (length - empty)})
        assert weights.read_bytes()[:3] == length.to_bytes(3, "little")
        assert published(tmp_path) == ["model.safetensors"]


def test_a_push_that_breaks_off_says_so_changes_nothing_and_goes_on(made, hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub waits before it tries again
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    for hub.failing in ("PUT /lfs", "POST /api/models/me/student/commit"):
        with pytest.raises(PublishError, match=r"did not take 'me/student' \(status 500.*Push again") as told:
            push_to_hub(made, "me/student")
        assert SECRET not in str(told.value)
        assert "s3cret" not in str(told.value)  # the signature of an address
        assert hub.commits == []
    hub.failing = None
    sent = len(hub.blobs)
    address = push_to_hub(made, "me/student", message="At last")
    assert len(hub.blobs) == sent
    assert address == f"{hub.endpoint}/me/student/commit/{hub.revision('me/student')}"
    assert [message for _, message, _ in hub.commits] == ["At last"]
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_what_has_not_changed_is_not_committed_again(made, hub):
    assert push_to_hub(made, "me/student") == push_to_hub(made, "me/student")
    assert len(hub.commits) == 1


def test_a_branch_of_its_own(made, hub):
    push_to_hub(made, "me/student", revision="smaller")
    assert hub.branches == {"smaller"}


def test_without_leave_to_write_it_says_how_to_get_it(made, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(PublishError, match=r"does not let you write to 'me/student' \(status 401\).*hf auth"):
        push_to_hub(made, "me/student")


@pytest.mark.parametrize("name", ["../../etc", "a/b/c", "me/stu dent", "me/\x1b[31mred", "-x", "me/a..b", ""])
def test_names_that_the_hub_does_not_have_are_refused(made, hub, name):
    with pytest.raises(ValueError, match=r"cannot be the name of a repository .*owner/name") as told:
        push_to_hub(made, name)
    assert "\x1b" not in str(told.value)
    assert hub.repositories == {}


def test_a_folder_without_a_model_is_refused(tmp_path, hub):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"holds no model to publish.*save_model"):
        push_to_hub(tmp_path, "me/student")


def test_a_hub_that_is_silent_is_named(made, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(hfdistill.HubUnreachable, match="cannot be reached to publish 'me/student'"):
        push_to_hub(made, "me/student")


def test_an_error_that_is_no_answer_of_the_hub_stays_as_it_is():
    with pytest.raises(ZeroDivisionError, match=r"^no part$"), publishing("me/student"):
        raise ZeroDivisionError("no part")
    with pytest.raises(PublishError, match=r"^as told$"), publishing("me/student"):
        raise PublishError("as told")


def test_a_silent_hub_is_told_on_one_line_without_what_signs_an_address():
    with pytest.raises(hfdistill.HubUnreachable) as told, reaching("me/data"):
        raise ConnectionError("\nhttps://cdn.example/a?X-Amz-Signature=51b does not answer\nMore")
    assert str(told.value).startswith(
        "The Hugging Face Hub cannot be reached for 'me/data' (https://cdn.example/a?… does not answer). Pass"
    )
