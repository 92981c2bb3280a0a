"""How the student is divided among the processes of a run: asked of its accelerator, here alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from hfdistill.network.architectures import word_embeddings


@dataclass(frozen=True)
class Sharding:
    """How the student is divided, as `TrainingArguments`, `accelerate launch` or its config asked for.

    Args:
        name: "FSDP1", "FSDP2", "ZeRO-0" to "ZeRO-3" (DeepSpeed); "" for one process, and for DDP.
        plugin: accelerate's settings of it.
    """

    name: str = ""
    plugin: Any = None

    @classmethod
    def of(cls, accelerator: Accelerator) -> Sharding:
        """Return how this accelerator divides it."""
        deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
        if deepspeed is not None:
            return cls(f"ZeRO-{deepspeed.zero_stage}", deepspeed)
        fsdp = getattr(accelerator.state, "fsdp_plugin", None)
        return cls() if fsdp is None else cls(f"FSDP{fsdp.fsdp_version}", fsdp)

    def __bool__(self) -> bool:
        """Whether FSDP or DeepSpeed holds the optimizer, which then takes the student's weights alone."""
        return bool(self.name)

    def settle(self, student: Any) -> None:
        """Fill in the settings of accelerate that are left open, or whose defaults do not work.

        ZeRO-3 shall write a student that `from_pretrained` reads; by itself it writes parts alone. FSDP2
        divides what Transformers names as layers, where no other is named, and the word embeddings apart.
        BERT names the module around these as well, which torch then refuses to divide a second time.
        """
        if self.name == "ZeRO-3":
            zero = self.plugin.deepspeed_config["zero_optimization"]
            zero["stage3_gather_16bit_weights_on_model_save"] = True
        if self.name == "FSDP2" and self.plugin.transformer_cls_names_to_wrap is None:
            table = word_embeddings(student)
            layers = [part for part in student.modules() if not any(each is table for each in part.modules())]
            named = getattr(student, "_no_split_modules", None) or ()
            there = {type(part).__name__ for part in layers}
            self.plugin.transformer_cls_names_to_wrap = sorted(there & set(named))

    @contextlib.contextmanager
    def saving_whole_model(self) -> Iterator[None]:
        """While open, FSDP writes the student as a whole; with sharded state Trainer would write none."""
        if not self.name.startswith("FSDP"):
            yield
            return
        kind = self.plugin.state_dict_type
        self.plugin.state_dict_type = type(kind).FULL_STATE_DICT
        try:
            yield
        finally:
            self.plugin.state_dict_type = kind
