"""Parameters that are trained beside the student and are never part of it: projections, or a peer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hfdistill.files.checkpoint import CheckpointError
from hfdistill.objectives import Blend

FILE = "objective.safetensors"


class ExtraParameters:
    """Trains the parameters of the objective, and of a teacher that learns, with the student's optimizer.

    Each learner has parameter groups of its own (the run's learning rate; no weight decay for projections),
    is averaged over processes once an optimizer step, and is clipped by `max_grad_norm` apart from the
    student. What the objective owns stands in each checkpoint in a file of its own.

    Args:
        objective: the student's, bound.
        others: further modules that learn, by the name that messages give them.
    """

    def __init__(self, objective: Blend, *, others: Mapping[str, nn.Module] | None = None) -> None:
        self.objective = objective
        self.learners: dict[str, nn.Module] = {"objective": objective, **(others or {})}

    def parameters(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each learner that has some."""
        every = [[p for p in part.parameters() if p.requires_grad] for part in self.learners.values()]
        return [parameters for parameters in every if parameters]

    def add_to(
        self,
        optimizer: Any,
        *,
        weight_decay: float,
        decayed: Callable[[nn.Module], Collection[str]],
        fixed: bool,
    ) -> None:
        """Give the optimizer groups for the parameters that it does not hold yet.

        Args:
            optimizer: the student's.
            weight_decay: for the parameters that `decayed` names.
            decayed: the names of a module's parameters that have weight decay; the objective's have none.
            fixed: whether the optimizer takes no more groups: its scheduler was made for those it has, or
                DeepSpeed or FSDP made it.

        Raises:
            ValueError: where it is fixed and parameters are missing.
        """
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for whose, part in self.learners.items():
            missing = {n: p for n, p in part.named_parameters() if p.requires_grad and id(p) not in held}
            if missing and fixed:
                what = f"{part} has projections" if whose == "objective" else f"The {whose} has parameters"
                raise ValueError(
                    f"{what} to train, and the optimizer was made without them. Give its class: "
                    "optimizer_cls_and_kwargs=(torch.optim.AdamW, {'lr': 1e-4}). DeepSpeed and FSDP take "
                    "none."
                )
            with_decay = set() if whose == "objective" else set(decayed(part))
            for decay, names in ((weight_decay, with_decay), (0.0, missing.keys() - with_decay)):
                group: dict[str, Any] = {"params": [p for n, p in missing.items() if n in names]}
                if "weight_decay" in optimizer.defaults:
                    group["weight_decay"] = decay
                if group["params"]:
                    optimizer.add_param_group(group)

    def zero_grad(self) -> None:
        """Clear the gradients; Trainer clears the student's alone."""
        for learner in self.learners.values():
            learner.zero_grad()

    def average(self, accelerator: Accelerator) -> None:
        """Average the gradients over processes, as DDP does for the student.

        Every process has the same terms at work, so the same parameters have a gradient.
        """
        if accelerator.num_processes == 1:
            return
        for parameter in itertools.chain.from_iterable(self.parameters()):
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "mean")

    def clip(self, limit: float) -> list[Tensor]:
        """Clip each learner's gradients to a norm of `limit`, 0 for none, and return the norms before."""
        if limit > 0:
            return [nn.utils.clip_grad_norm_(parameters, limit) for parameters in self.parameters()]
        grads = [[p.grad for p in parameters if p.grad is not None] for parameters in self.parameters()]
        return [nn.utils.get_total_norm(each) for each in grads if each]

    def save(self, folder: Path) -> None:
        """Write the objective's parameters and buffers, where it has some."""
        state = {name: value.detach().cpu().contiguous() for name, value in self._state().items()}
        if state:
            save_file(state, folder / FILE)

    def load(self, folder: Path) -> None:
        """Put the objective's parameters and buffers where they stood.

        Raises:
            CheckpointError: where the checkpoint holds none, or others.
        """
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

    def _state(self) -> dict[str, Tensor]:
        """Return the objective's state, each tensor once; of a buffer that differs by rank, rank 0's."""
        seen: set[int] = set()
        state = {}
        for name, value in self.objective.state_dict(keep_vars=True).items():
            if id(value) not in seen:
                seen.add(id(value))
                state[name] = value
        return state
