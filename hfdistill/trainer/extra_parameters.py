"""Parameters that are trained beside the student and are never part of it: projections, or a peer."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from hfdistill.files.checkpoint import CheckpointError
from hfdistill.objectives import Blend
from hfdistill.trainer.sharding import Sharding

FILE = "objective.safetensors"
OPTIMIZER = "objective_optimizer.safetensors"


class ExtraParameters:
    """Trains the parameters of the objective, and of a teacher that learns, with the student's optimizer.

    Each learner has parameter groups of its own (the run's learning rate; no weight decay for projections),
    is averaged over processes once an optimizer step, and is clipped by `max_grad_norm` apart from the
    student. What the objective owns stands in each checkpoint in a file of its own; so do the moments of the
    optimizer that these parameters have where FSDP or DeepSpeed holds the student's.

    Args:
        objective: the student's, bound.
        others: further modules that learn, by the name that messages give them.
    """

    def __init__(self, objective: Blend, *, others: Mapping[str, nn.Module] | None = None) -> None:
        self.objective = objective
        self.learners: dict[str, nn.Module] = {"objective": objective, **(others or {})}
        self._own: torch.optim.Optimizer | None = None

    def parameters(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each learner that has some."""
        every = [[p for p in part.parameters() if p.requires_grad] for part in self.learners.values()]
        return [parameters for parameters in every if parameters]

    def add_to(self, optimizer: Any, *, trainer: Trainer, sharding: Sharding, made: bool) -> None:
        """Give the student's optimizer groups for the parameters that it does not hold yet.

        That of FSDP or DeepSpeed takes the student's alone: another of the same class, at the student's
        learning rate, then moves the rest on every process. `made` says that the optimizer was there before:
        the user's, or an earlier training's.

        Raises:
            ValueError: where it was made without them, and for fp16 under FSDP and DeepSpeed, whose scaled
                gradients no other optimizer can read.
        """
        of_both = [*getattr(optimizer, "param_groups", ()), *(self._own.param_groups if self._own else ())]
        held = {id(parameter) for group in of_both for parameter in group["params"]}
        groups: list[dict[str, Any]] = []
        for whose, part in self.learners.items():
            missing = {n: p for n, p in part.named_parameters() if p.requires_grad and id(p) not in held}
            if missing and (made if sharding else trainer.lr_scheduler is not None):
                raise ValueError(
                    f"{_what(whose, part)} to train, and the optimizer was made without them. Give its "
                    "class: optimizer_cls_and_kwargs=(torch.optim.AdamW, {'lr': 1e-4})."
                )
            if missing and sharding and trainer.accelerator.mixed_precision == "fp16":
                raise ValueError(
                    f"{_what(whose, part)} to train beside a student of {sharding.name}, which keeps the "
                    "scale of fp16 to itself. Type bf16=True in place of fp16."
                )
            with_decay = set() if whose == "objective" else set(trainer.get_decay_parameter_names(part))
            weight_decay = trainer.args.weight_decay
            for decay, names in ((weight_decay, with_decay), (0.0, missing.keys() - with_decay)):
                parameters = [p for n, p in missing.items() if n in names]
                groups += [{"params": parameters, "weight_decay": decay}] if parameters else []
        self._give(groups, optimizer, trainer=trainer, sharding=sharding)

    def _give(self, groups: Any, optimizer: Any, *, trainer: Trainer, sharding: Sharding) -> None:
        """Put the groups into the student's optimizer, or into one of their own."""
        if sharding and groups:
            asked = trainer.optimizer_cls_and_kwargs
            kind, options = asked or trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
            accepted = inspect.signature(kind).parameters
            self._own = kind([_accepted(group, accepted) for group in groups], **options)
            return
        for group in groups:
            optimizer.add_param_group(_accepted(group, optimizer.defaults))

    def step(self, optimizer: Any) -> None:
        """Step the parameters that the student's optimizer does not hold, at its learning rate."""
        if self._own is None:
            return
        for group in self._own.param_groups:
            group["lr"] = optimizer.param_groups[0]["lr"]
        self._own.step()

    def zero_grad(self) -> None:
        """Clear the gradients; Trainer clears the student's alone."""
        for learner in self.learners.values():
            learner.zero_grad()

    def average(self, accelerator: Accelerator) -> None:
        """Average the gradients over processes, as DDP does for the student.

        A term may read some rows alone, the labelled ones, say, which one process has and another has not:
        a parameter that has a gradient anywhere is averaged everywhere.
        """
        parameters = list(itertools.chain.from_iterable(self.parameters()))
        if accelerator.num_processes == 1 or not parameters:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        used = accelerator.reduce(used.to(accelerator.device, non_blocking=True), "sum")
        for parameter, anywhere in zip(parameters, used.tolist(), strict=True):
            if anywhere:
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = accelerator.reduce(grad, "mean")

    def clip(self, limit: float) -> list[Tensor]:
        """Clip each learner's gradients to a norm of `limit`, 0 for none, and return the norms before."""
        if limit > 0:
            return [nn.utils.clip_grad_norm_(parameters, limit) for parameters in self.parameters()]
        grads = [[p.grad for p in parameters if p.grad is not None] for parameters in self.parameters()]
        return [nn.utils.get_total_norm(each) for each in grads if each]

    def save(self, folder: Path) -> None:
        """Write the objective's parameters and buffers, where it has some, and an optimizer of their own."""
        state = {name: value.detach().cpu().contiguous() for name, value in self._state().items()}
        if state:
            save_file(state, folder / FILE)
        if self._own is not None:
            moments = self._own.state_dict()["state"]
            named = {f"{i}.{name}": value for i, each in moments.items() for name, value in each.items()}
            save_file(
                {n: torch.as_tensor(v).cpu().contiguous() for n, v in named.items()}, folder / OPTIMIZER
            )

    def load(self, folder: Path) -> None:
        """Restore the objective's parameters and buffers.

        Raises:
            CheckpointError: where the checkpoint holds none, or others.
        """
        self._load_optimizer(folder / OPTIMIZER)
        own = self._state()
        if not own:
            return
        path = folder / FILE
        state = load_file(path) if path.is_file() else {}
        if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in own.items()}:
            reason = f"{FILE} holds others" if state else f"{FILE} is missing"
            raise CheckpointError(
                f"{folder} does not hold the projections of {self.objective} ({reason}), and fresh ones "
                "would undo what was learnt. Resume from another checkpoint, or start a new run."
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])

    def _load_optimizer(self, path: Path) -> None:
        """Restore the optimizer of their own, where there is one."""
        if self._own is None:
            return
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing: the checkpoint was not saved under FSDP or DeepSpeed. Resume as that "
                "run was launched, or start a new one."
            )
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(path).items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = value
        self._own.load_state_dict({**self._own.state_dict(), "state": moments})

    def _state(self) -> dict[str, Tensor]:
        """Return the objective's state, each tensor once; of a buffer that differs by rank, rank 0's."""
        first: dict[int, tuple[str, Tensor]] = {}
        for name, value in self.objective.state_dict(keep_vars=True).items():
            first.setdefault(id(value), (name, value))
        return dict(first.values())


def _what(whose: str, part: nn.Module) -> str:
    return f"{part} has projections" if whose == "objective" else f"The {whose} has parameters"


def _accepted(group: dict[str, Any], options: Container[str]) -> dict[str, Any]:
    """Leave weight decay out for an optimizer that has none."""
    return {name: value for name, value in group.items() if name == "params" or name in options}
