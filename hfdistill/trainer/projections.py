"""The objective's own parameters: trained beside the student, and never part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hfdistill.checkpoint import CheckpointError
from hfdistill.objectives import Blend
from hfdistill.trainer.evaluation import ExactEvaluationTrainer

FILE = "objective.safetensors"


class ProjectionTrainer(ExactEvaluationTrainer):
    """A `Trainer` that also trains the projections of its objective.

    They have a parameter group of their own (the run's learning rate, no weight decay), are averaged over
    processes once an optimizer step, are clipped by `max_grad_norm` apart from the student, and stand in each
    checkpoint in a file of their own.
    """

    blend: Blend
    _projection_norm: Tensor | None = None

    def _projections(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.blend.parameters() if parameter.requires_grad]

    def create_optimizer(self, model: Any = None) -> Any:
        """As Trainer's, with a group for the projections.

        Raises:
            ValueError: where the optimizer and its scheduler were made by the user, or by DeepSpeed.
        """
        optimizer = super().create_optimizer(model)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [parameter for parameter in self._projections() if id(parameter) not in held]
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if missing and (self.lr_scheduler is not None or sharded):
            raise ValueError(
                f"{self.blend} has projections to train, and the optimizer was made without them. Give its "
                "class: optimizer_cls_and_kwargs=(torch.optim.AdamW, {'lr': 1e-4}). DeepSpeed and FSDP take "
                "none."
            )
        if missing:
            decay = {"weight_decay": 0.0} if "weight_decay" in optimizer.defaults else {}
            optimizer.add_param_group({"params": missing, **decay})
        return optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        """Trainer's for the student; the projections are averaged over processes and clipped apart."""
        self._average_over_processes()
        norm = super()._clip_grad_norm(model)  # with fp16, this unscales every gradient of the optimizer
        if self._projections():
            self._projection_norm = nn.utils.clip_grad_norm_(self._projections(), self.args.max_grad_norm)
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:
            self._average_over_processes()
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        grads = [p.grad for p in self._projections() if p.grad is not None]
        if self._projection_norm is None and grads:
            self._projection_norm = nn.utils.get_total_norm(grads)
        return grad_norm

    def _average_over_processes(self) -> None:
        """Every process has the same terms at work, so the same projections have a gradient."""
        self._projection_norm = None
        for parameter in self._projections():
            if parameter.grad is not None and self.args.world_size > 1:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def _own_state(self) -> dict[str, Tensor]:
        """What the objective must keep, each tensor once; of a buffer that differs by rank, rank 0's."""
        seen: set[int] = set()
        state = {}
        for name, value in self.blend.state_dict(keep_vars=True).items():
            if id(value) not in seen:
                seen.add(id(value))
                state[name] = value
        return state

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = {name: value.detach().cpu().contiguous() for name, value in self._own_state().items()}
        if state and self.args.should_save:
            save_file(state, Path(output_dir, FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer's, and the objective's own parameters and buffers.

        Raises:
            CheckpointError: where the checkpoint holds none, or others.
        """
        own = self._own_state()
        if checkpoint is not None and own:
            path = Path(checkpoint, FILE)
            state = load_file(path) if path.is_file() else {}
            if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in own.items()}:
                found = f"{FILE} holds others" if state else f"{FILE} is missing"
                raise CheckpointError(
                    f"{checkpoint} does not hold the projections of {self.blend} ({found}), and fresh ones "
                    "would undo what was learnt. Resume from another checkpoint, or start a new run."
                )
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(state[name])
        super()._load_optimizer_and_scheduler(checkpoint)
