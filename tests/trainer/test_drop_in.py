"""The same script under Trainer and under DistillationTrainer: what Trainer takes keeps working."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
import transformers
from datasets import IterableDataset
from peft import LoraConfig, TaskType, get_peft_model
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    pipeline,
)

from hfdistill import DistillationTrainer
from tests.conftest import make_bert, make_dataset, make_tokenizer

# What the script does under plain Trainer, `-m slow` shows: it is here to be the same script.
TRAINERS = pytest.mark.parametrize(
    "trainer_class", [pytest.param(Trainer, marks=pytest.mark.slow), DistillationTrainer]
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",  # peft 0.21 reads the old name
)


def encoded(rows=32):
    tokenizer = make_tokenizer()
    return make_dataset(rows).map(lambda batch: tokenizer(batch["text"]), batched=True)


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def build(trainer_class, arguments, **options):
    """The script: everything a user passes to Trainer. Ours adds `teacher=`."""
    extra = {} if trainer_class is Trainer else {"teacher": make_bert(1, seed=1)}
    given = {
        "model": make_bert(2, seed=2),
        "args": arguments(learning_rate=1e-3, optim="adamw_torch"),
        "train_dataset": encoded(),
        "eval_dataset": encoded(16),
        "processing_class": make_tokenizer(),
        "compute_metrics": accuracy,
    }
    return trainer_class(**{**given, **options, **extra})


def moved(trainer, before):
    return any(
        not torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before.parameters(), strict=True)
    )


@TRAINERS
def test_train_evaluate_predict_save_and_load(trainer_class, arguments, tmp_path):
    trainer = build(trainer_class, arguments)
    before = copy.deepcopy(trainer.model)
    result = trainer.train()
    assert result.global_step == 4
    assert moved(trainer, before)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_accuracy", "eval_runtime"} <= metrics.keys()
    prediction = trainer.predict(encoded(10))
    assert prediction.predictions.shape == (10, 2)
    assert prediction.label_ids.tolist() == encoded(10)["label"][:]
    assert "test_loss" in prediction.metrics
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert set(loaded.state_dict()) == set(before.state_dict())
    answers = pipeline("text-classification", model=str(tmp_path / "saved"))(make_dataset(10)["text"][:])
    assert [loaded.config.label2id[a["label"]] for a in answers] == prediction.predictions.argmax(-1).tolist()


@TRAINERS
def test_positional_arguments(trainer_class, arguments):
    extra = {} if trainer_class is Trainer else {"teacher": make_bert(3, seed=1)}
    collator = DataCollatorWithPadding(make_tokenizer())
    trainer = trainer_class(
        make_bert(), arguments(), collator, encoded(), encoded(8), make_tokenizer(), **extra
    )
    assert trainer.data_collator is collator
    assert len(trainer.train_dataset) == 32
    assert len(trainer.eval_dataset) == 8
    trainer.train()


@TRAINERS
def test_the_arguments_stay_as_they_were(trainer_class, arguments):
    args = arguments(learning_rate=1e-3)
    before = args.to_dict()
    trainer = build(trainer_class, arguments, args=args)
    trainer.train()
    trainer.evaluate()
    assert trainer.args.to_dict() == before


@pytest.mark.parametrize("items", [32, torch.tensor(32)], ids=["int", "tensor"])
def test_a_number_of_items_of_ones_own_divides_the_loss(arguments, items):
    trainer = build(DistillationTrainer, arguments)
    batch = DataCollatorWithPadding(make_tokenizer())(list(encoded(8).remove_columns("text")))
    trainer.model.eval()
    mean = trainer.compute_loss(trainer.model, batch)
    assert trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).item() == pytest.approx(
        mean.item() * 8 / 32, rel=1e-6
    )


@TRAINERS
def test_metrics_a_batch_at_a_time(trainer_class, arguments):
    seen = []

    def metrics(prediction, compute_result):
        seen.append(len(prediction.label_ids))
        return {"rows": sum(seen)} if compute_result else None

    trainer = build(
        trainer_class, arguments, args=arguments(batch_eval_metrics=True), compute_metrics=metrics,
        eval_dataset=encoded(13),
    )  # fmt: skip
    found = trainer.evaluate()
    assert seen == [8, 5]
    assert found["eval_rows"] == 13
    assert trainer.predict(encoded(5)).metrics.keys() >= {"test_rows", "test_loss"}


@TRAINERS
def test_the_best_model_is_kept_by_the_strategy_best(trainer_class, arguments):
    scores = iter([0.5, 0.9, 0.1])
    args = arguments(
        eval_strategy="epoch", save_strategy="best", num_train_epochs=3, metric_for_best_model="score",
        greater_is_better=True, learning_rate=1e-3,
    )  # fmt: skip
    trainer = build(
        trainer_class, arguments, args=args, compute_metrics=lambda prediction: {"score": next(scores)}
    )
    trainer.train()
    assert trainer.state.best_global_step == 8
    assert {p.name for p in Path(args.output_dir).glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}


def test_outputs_without_logits_and_without_classes_say_what_is_wrong(arguments):
    class Toy(torch.nn.Module):
        def __init__(self, key, shape):
            super().__init__()
            self.table, self.key, self.shape = torch.nn.Embedding(40, 1), key, shape

        def forward(self, input_ids, attention_mask=None):
            return {self.key: self.table(input_ids).mean(1).view(self.shape)}

    for key, shape, words in (
        ("scores", (-1, 1), r"The model returns 'scores'.*read from 'logits'"),
        ("logits", (-1,), r"logits have shape \(8,\), one number a row.*\(rows, classes\)"),
    ):
        trainer = DistillationTrainer(
            Toy(key, shape), arguments(), teacher=None, train_dataset=encoded(8),
            processing_class=make_tokenizer(),
        )  # fmt: skip
        with pytest.raises(ValueError, match=words):
            trainer.train()


@TRAINERS
def test_callbacks_see_every_event(trainer_class, arguments):
    class Count(TrainerCallback):
        def __init__(self):
            self.seen = []

        def __getattribute__(self, name):
            if name.startswith("on_"):
                object.__getattribute__(self, "seen").append(name)
            return object.__getattribute__(self, name)

    count = Count()
    build(trainer_class, arguments, callbacks=[count]).train()
    assert {"on_train_begin", "on_step_end", "on_pre_optimizer_step", "on_log", "on_train_end"} <= set(
        count.seen
    )
    assert count.seen.count("on_step_end") == 4


@TRAINERS
def test_model_init_and_hyperparameter_search(trainer_class, arguments):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainer = build(trainer_class, arguments, model=None, model_init=lambda trial: make_bert(2, seed=2))
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        direction="maximize",
        backend="optuna",
        n_trials=2,
    )
    assert 1e-4 <= best.hyperparameters["learning_rate"] <= 1e-2
    assert 0 <= best.objective <= 1


@TRAINERS
def test_custom_optimizers(trainer_class, arguments):
    model = make_bert(2, seed=2)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = build(trainer_class, arguments, model=model, optimizers=(optimizer, schedule))
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    assert moved(trainer, before)
    chosen = build(trainer_class, arguments, optimizer_cls_and_kwargs=(torch.optim.Adagrad, {"lr": 0.01}))
    chosen.train()
    assert isinstance(chosen.optimizer.optimizer, torch.optim.Adagrad)


@TRAINERS
def test_peft_student(trainer_class, arguments, tmp_path):
    base = make_bert(2, seed=2)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query", "value"])
    trainer = build(trainer_class, arguments, model=get_peft_model(base, config))
    frozen = base.bert.embeddings.word_embeddings.weight.clone()
    trainer.train()
    assert torch.equal(base.bert.embeddings.word_embeddings.weight, frozen)
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


@TRAINERS
def test_resume_is_exact(trainer_class, arguments):
    options = {"save_strategy": "steps", "num_train_epochs": 2, "learning_rate": 1e-3}
    shaky = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}

    def script(save_steps=8):
        model, args = (
            make_bert(2, seed=2, **shaky),
            arguments(**options, save_steps=save_steps, optim="adamw_torch"),
        )
        return build(trainer_class, arguments, model=model, args=args)

    straight = script(save_steps=2)
    straight.train()
    for step in (2, 4, 6):  # within epoch 1, between the two, within epoch 2
        resumed = script()
        resumed.train(resume_from_checkpoint=str(Path(straight.args.output_dir) / f"checkpoint-{step}"))
        assert not moved(resumed, straight.model)
    again = script()
    assert again.train(resume_from_checkpoint=True).global_step == 8


@TRAINERS
def test_best_model_and_early_stopping(trainer_class, arguments):
    args = arguments(
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, num_train_epochs=4,
        metric_for_best_model="accuracy", save_total_limit=1, learning_rate=0.0,
    )  # fmt: skip
    trainer = build(trainer_class, arguments, args=args, callbacks=[EarlyStoppingCallback(1)])
    trainer.train()
    assert trainer.state.global_step == 8  # no gain in epoch 2, with nothing to learn
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-4"
    assert best.is_dir()


@TRAINERS
def test_compute_loss_func(trainer_class, arguments):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(int(num_items_in_batch))
        total = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
        return total / num_items_in_batch

    trainer = build(trainer_class, arguments, compute_loss_func=loss)
    trainer.train()
    assert seen == [8] * 4
    assert trainer.evaluate()["eval_loss"] == pytest.approx(own_loss(trainer.model, encoded(16)), rel=1e-5)


def own_loss(model, data):
    model.eval()
    batch = DataCollatorWithPadding(make_tokenizer())(list(data.remove_columns("text")))
    with torch.no_grad():
        return float(
            torch.nn.functional.cross_entropy(
                model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"]
            )
        )


class Rows(TorchDataset):
    def __init__(self, data):
        self.rows = list(data.remove_columns("text"))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return dict(self.rows[index])


class PassesOn(torch.nn.Module):
    """A student of the user's own around a model, whose forward hands on what it is given."""

    def __init__(self):
        super().__init__()
        self.model = make_bert(2, seed=2)

    def forward(self, **inputs):
        return self.model(**inputs)


def test_a_forward_that_names_no_input(arguments):
    data = encoded(8).remove_columns("text")
    args = arguments(max_steps=2, remove_unused_columns=False)
    sets = {"train_dataset": data, "eval_dataset": data}
    trainer = build(DistillationTrainer, arguments, args=args, model=PassesOn(), **sets)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(own_loss(trainer.model.model, encoded(8)))


def test_a_stream_that_does_not_know_its_columns_is_tokenised(arguments):
    rows = list(make_dataset(16))
    stream = IterableDataset.from_generator(lambda: iter(rows))
    assert stream.column_names is None
    losses = [
        build(DistillationTrainer, arguments, args=arguments(max_steps=4), train_dataset=data)
        .train()
        .training_loss
        for data in (stream, make_dataset(16).to_iterable_dataset())
    ]
    assert losses[0] == losses[1]


@TRAINERS
@pytest.mark.parametrize("kind", ["torch", "list", "iterable", "dict of sets"])
def test_kinds_of_data(trainer_class, kind, arguments):
    data = encoded()
    args = arguments(max_steps=4) if kind == "iterable" else arguments()
    train = {
        "torch": Rows(data),
        "list": Rows(data).rows,
        "iterable": data.to_iterable_dataset(),
        "dict of sets": data,
    }[kind]
    assert kind != "iterable" or isinstance(train, IterableDataset)
    evaluation = {"a": encoded(8), "b": encoded(6)} if kind == "dict of sets" else encoded(8)
    trainer = build(trainer_class, arguments, args=args, train_dataset=train, eval_dataset=evaluation)
    assert trainer.train().global_step == 4
    names = {"eval_a_loss", "eval_b_loss"} if kind == "dict of sets" else {"eval_loss"}
    assert names <= trainer.evaluate().keys()


@TRAINERS
@pytest.mark.parametrize(
    "options",
    [
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"auto_find_batch_size": True},
        {"include_num_input_tokens_seen": "all"},
        {"neftune_noise_alpha": 5.0},
        {"eval_do_concat_batches": False, "eval_on_start": True, "eval_strategy": "epoch"},
        {"label_smoothing_factor": 0.1},
        {"remove_unused_columns": False},
        {"dataloader_num_workers": 1},
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "sequential"},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        {"max_grad_norm": 0.5},
        {"logging_strategy": "epoch"},
    ],
    ids=lambda o: next(iter(o)),
)
def test_training_arguments(trainer_class, options, arguments):
    data = encoded().remove_columns("text") if "remove_unused_columns" in options else encoded()
    metrics = None if "eval_do_concat_batches" in options else accuracy
    layers = 1 if "torch_compile" in options else 2  # a second compiles alike
    trainer = build(
        trainer_class,
        arguments,
        model=make_bert(layers, seed=2),
        args=arguments(**options),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=metrics,
    )
    assert trainer.train().global_step == 4
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_a18_label_smoothing_is_counted_once(arguments):
    """Trainer's own formula, (1 - ε)·nll + ε·mean over classes, beside the teacher, and in `eval_loss`."""
    from hfdistill import CrossEntropy

    smooth = build(
        Trainer, arguments, args=arguments(label_smoothing_factor=0.2, train_sampling_strategy="sequential")
    )
    ours = DistillationTrainer(
        make_bert(2, seed=2), arguments(label_smoothing_factor=0.2, train_sampling_strategy="sequential"),
        teacher=make_bert(3, seed=1), objective=1.0 * CrossEntropy(), train_dataset=encoded(),
        eval_dataset=encoded(16), processing_class=make_tokenizer(),
    )  # fmt: skip
    smooth.train()
    ours.train()
    expected, found = ([h["loss"] for h in t.state.log_history if "loss" in h] for t in (smooth, ours))
    assert found == pytest.approx(expected, rel=1e-5)
    assert ours.evaluate()["eval_loss"] == pytest.approx(smooth.evaluate()["eval_loss"], rel=1e-5)


class LocalHub:
    """Takes what Trainer uploads, and looks at it while it is there."""

    def __init__(self):
        self.uploads = []

    def create_repo(self, name, **options):
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, *, repo_id, folder_path, run_as_future=False, **options):
        files = sorted(path.name for path in Path(folder_path).iterdir() if path.is_file())
        self.uploads.append((repo_id, Path(folder_path).name, files))
        return SimpleNamespace(done=lambda: True, result=lambda: None) if run_as_future else "commit"

    @classmethod
    def connected(cls, monkeypatch):
        """A hub that Trainer and ours talk to."""
        hub = cls()
        monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
        monkeypatch.setattr("hfdistill.trainer.publishing.HfApi", lambda **options: hub)
        return hub


@TRAINERS
@pytest.mark.filterwarnings("ignore:Using the `WANDB_DISABLED`")
def test_create_model_card_and_push_to_hub(trainer_class, arguments, monkeypatch):
    hub = LocalHub.connected(monkeypatch)
    trainer = build(trainer_class, arguments, args=arguments(hub_model_id="someone/student"))
    trainer.train()
    trainer.create_model_card(model_name="student", tasks="text-classification")
    assert "student" in (Path(trainer.args.output_dir) / "README.md").read_text()
    trainer.push_to_hub(blocking=True)
    repository, _, files = hub.uploads[-1]
    assert repository == "someone/student"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(files)


@TRAINERS
def test_checkpoints_are_pushed_as_they_are_saved(trainer_class, arguments, monkeypatch):
    hub = LocalHub.connected(monkeypatch)
    monkeypatch.setattr(
        transformers.trainer, "PushInProgress", lambda jobs: SimpleNamespace(is_done=lambda: True)
    )
    options = {"push_to_hub": True, "hub_model_id": "someone/student", "hub_strategy": "checkpoint"}
    trainer = build(trainer_class, arguments, args=arguments(save_strategy="steps", save_steps=2, **options))
    trainer.train()
    pushed = [(folder, files) for _, folder, files in hub.uploads if folder.startswith("checkpoint")]
    assert [folder for folder, _ in pushed] == ["checkpoint-2", "checkpoint-4"]
    assert all({"optimizer.pt", "model.safetensors"} <= set(files) for _, files in pushed)
