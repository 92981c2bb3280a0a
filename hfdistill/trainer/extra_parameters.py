"""What is trained beside the student and never part of it: the objective's own parameters, or a peer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hfdistill.files.checkpoint import CheckpointError
from hfdistill.objectives import Blend
from hfdistill.trainer.exact_evaluation import ExactEvaluationTrainer

FILE = "objective.safetensors"


class ProjectionTrainer(ExactEvaluationTrainer):
    """A `Trainer` that also trains the projections of its objective, and whatever else learns.

    Each learner has parameter groups of its own (the run's learning rate; no weight decay for projections),
    is averaged over processes once an optimizer step, and is clipped by `max_grad_norm` apart from the
    student. Projections stand in each checkpoint in a file of their own.
    """

    blend: Blend
    _other_norms: Sequence[Tensor] = ()

    def _learners(self) -> dict[str, nn.Module]:
        """What learns beside the student, by the name that messages give it."""
        return {"objective": self.blend}

    def _learned(self) -> list[list[nn.Parameter]]:
        """The parameters of each learner."""
        found = [[p for p in part.parameters() if p.requires_grad] for part in self._learners().values()]
        return [parameters for parameters in found if parameters]

    def create_optimizer(self, model: Any = None) -> Any:
        """As Trainer's, with groups for what learns beside the student.

        Raises:
            ValueError: where the optimizer and its scheduler were made by the user, or by DeepSpeed.
        """
        optimizer = super().create_optimizer(model)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        for whose, part in self._learners().items():
            missing = {n: p for n, p in part.named_parameters() if p.requires_grad and id(p) not in held}
            if missing and (self.lr_scheduler is not None or sharded):
                what = (
                    f"{self.blend} has projections" if part is self.blend else f"The {whose} has parameters"
                )
                raise ValueError(
                    f"{what} to train, and the optimizer was made without them. Give its class: "
                    "optimizer_cls_and_kwargs=(torch.optim.AdamW, {'lr': 1e-4}). DeepSpeed and FSDP take "
                    "none."
                )
            decayed = set() if part is self.blend else set(self.get_decay_parameter_names(part))
            for decay, chosen in ((self.args.weight_decay, decayed), (0.0, missing.keys() - decayed)):
                group: dict[str, Any] = {"params": [p for n, p in missing.items() if n in chosen]}
                if "weight_decay" in optimizer.defaults:
                    group["weight_decay"] = decay
                if group["params"]:
                    optimizer.add_param_group(group)
        return optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        """Trainer's for the student; other learners are averaged over processes and clipped apart."""
        self._average_over_processes()
        norm = super()._clip_grad_norm(model)  # with fp16, this unscales every gradient of the optimizer
        limit = self.args.max_grad_norm
        self._other_norms = [nn.utils.clip_grad_norm_(parameters, limit) for parameters in self._learned()]
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:
            self._average_over_processes()
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self._other_norms:
            grads = [[p.grad for p in parameters if p.grad is not None] for parameters in self._learned()]
            self._other_norms = [nn.utils.get_total_norm(each) for each in grads if each]
        return grad_norm

    def _average_over_processes(self) -> None:
        """Every process has the same terms at work, so the same parameters have a gradient."""
        self._other_norms = ()
        for parameter in itertools.chain.from_iterable(self._learned()):
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
