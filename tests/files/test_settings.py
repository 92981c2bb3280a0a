"""Reports of other settings do not pass for those of a study that is started again."""

from dataclasses import dataclass, replace

import pytest

from hfdistill import DistillationArguments, check_settings


@dataclass
class Study:
    dataset: str = "films"
    seeds: tuple[int, ...] = (1,)


def test_settings_that_differ_are_refused_with_then_and_now(tmp_path):
    args = DistillationArguments(str(tmp_path / "o"), num_train_epochs=2, report_to="none")
    check_settings(tmp_path, Study(), args, may_change=["seeds"])
    check_settings(tmp_path, Study(seeds=(1, 2)), args, may_change=["seeds"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").touch()
    check_settings(tmp_path, Study(), replace(args, logging_steps=3, output_dir="p"), may_change=["seeds"])
    for study, other, match in [
        (Study("songs"), args, r"dataset films → songs"),
        (Study(), replace(args, learning_rate=1.0), r"learning_rate 5e-05 → 1.0"),
        (Study(), replace(args, num_train_epochs=1), r"num_train_epochs 2 → 1"),
        (Study("songs"), replace(args, seed=7), r"dataset films → songs; seed 42 → 7"),
    ]:
        with pytest.raises(ValueError, match=match + r".*Type another --output_dir"):
            check_settings(tmp_path, study, other, may_change=["seeds"])
    with pytest.raises(ValueError, match=r"seeds \[1, 2\] → \[1\]|seeds \[1\] → \[1, 2\]"):
        check_settings(tmp_path, Study(seeds=(1, 2)), args)


MECHANICS = {
    "output_dir": "p",
    "logging_steps": 3,
    "save_steps": 7,
    "eval_steps": 9,
    "report_to": ["mine"],
    "run_name": "mine",
    "push_to_hub": True,
    "hub_model_id": "me/student",
    "disable_tqdm": True,
    "log_level": "error",
    "allow_changed": True,
    "resume_from_checkpoint": "p",
    "load_best_model_at_end": True,
    "dataloader_num_workers": 2,
    "per_device_eval_batch_size": 2,
    "teacher_check_rows": 3,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
    "use_cpu": True,
}


@pytest.mark.parametrize("name", MECHANICS)
def test_what_decides_nothing_about_the_weights_may_differ(tmp_path, name):
    args = DistillationArguments(str(tmp_path / "o"), report_to="none")
    check_settings(tmp_path, args)
    (tmp_path / "model.safetensors").touch()
    before, now = getattr(args, name), MECHANICS[name]
    setattr(args, name, not before if now is True else now)
    assert getattr(args, name) != before
    check_settings(tmp_path, args)


def test_a_run_may_grow_unless_its_report_is_kept(tmp_path):
    args = DistillationArguments(str(tmp_path / "o"), num_train_epochs=2, report_to="none")
    check_settings(tmp_path, args)
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(ValueError, match="num_train_epochs 2 → 3"):
        check_settings(tmp_path, replace(args, num_train_epochs=3), may_grow=())
    check_settings(tmp_path, replace(args, num_train_epochs=3))
    with pytest.raises(ValueError, match="num_train_epochs 3 → 2"):
        check_settings(tmp_path, args)


def test_a_start_that_left_nothing_binds_nobody(tmp_path):
    args = DistillationArguments(str(tmp_path / "o"), num_train_epochs=2, report_to="none")
    check_settings(tmp_path, Study("misspelt"), args)
    check_settings(tmp_path, Study(), args)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="dataset films → misspelt"):
        check_settings(tmp_path, Study("misspelt"), args)


class OfSecondProcess(Study):
    """Settings as the second of several processes has them, by a property as in training arguments."""

    process_index = 1


def test_the_first_of_several_processes_writes(tmp_path):
    check_settings(tmp_path, OfSecondProcess())
    assert list(tmp_path.iterdir()) == []
    check_settings(tmp_path, Study())
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    (tmp_path / "report.json").touch()
    with pytest.raises(ValueError, match="dataset films → songs"):
        check_settings(tmp_path, OfSecondProcess("songs"))
