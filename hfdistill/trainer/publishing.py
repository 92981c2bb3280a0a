"""`Publisher` uploads a run while it trains and at its end: no pickles, no numbers of an earlier run."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import Future, wait
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hfdistill.files.hub import publishing, withheld

logger = logging.getLogger(__name__)

MEASURED = "## How this card was made"
"""Stands in every card that `write_card` drew, and in no draft of Trainer's."""
_MODEL_FILES = ("config.json", "generation_config.json", "adapter_config.json", "*model*.safetensors*")


class Publisher:
    """Uploads the output folder of a run, and watches the uploads that go on in the background."""

    def __init__(self, args: TrainingArguments) -> None:
        self.args = args
        self._jobs: list[tuple[str, Future[Any]]] = []

    @property
    def folder(self) -> Path:
        """The run's output folder."""
        return Path(self.args.output_dir)

    def push(
        self,
        repository: str,
        message: str,
        *,
        began: float,
        token: str | None = None,
        revision: str | None = None,
        blocking: bool = True,
    ) -> Any:
        """Upload the output folder, without pickles and checkpoints.

        A report that is older than `began`, when the run began, is of another run and stays here.

        Returns:
            What `HfApi.upload_folder` does: the commit, or its future.

        Raises:
            HubUnreachable: the Hub gives no answer.
            PublishError: the Hub refused or failed.
        """
        stale = [] if self.is_newer(began, "report.json") else ["report.json"]
        options: dict[str, Any] = {"run_as_future": not blocking, "commit_message": message}
        with publishing(repository):
            return self._hub.upload_folder(
                repo_id=repository,
                folder_path=str(self.folder),
                token=token if token is not None else self.args.hub_token,
                revision=revision if revision is not None else self.args.hub_revision,
                ignore_patterns=[*withheld(self.folder), *stale],
                **options,
            )

    def push_checkpoint(self, checkpoint: Path, repository: str, message: str, *, began: float) -> None:
        """Copy the model of a checkpoint to the output folder, and upload that in the background.

        Where `hub_strategy` asks for it the checkpoint itself goes too, with its files of torch.
        """
        for path in checkpoint.iterdir():
            if any(fnmatchcase(path.name, pattern) for pattern in _MODEL_FILES):
                shutil.copy(path, self.folder / path.name)
        job = self.push(repository, message, began=began, blocking=False)
        self._jobs.append((repository, job))
        places = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        if self.args.hub_strategy in places:
            job = self._hub.upload_folder(
                repo_id=repository,
                folder_path=str(checkpoint),
                path_in_repo=places[self.args.hub_strategy],
                commit_message=f"{message}, checkpoint",
                token=self.args.hub_token,
                revision=self.args.hub_revision,
                run_as_future=True,
            )
            self._jobs.append((repository, job))

    @property
    def is_busy(self) -> bool:
        """Whether an upload goes on in the background."""
        return any(not job.done() for _, job in self._jobs)

    def finish(self) -> None:
        """Wait for the uploads in the background, and report those that failed."""
        if self.is_busy:
            logger.info("Waiting for the current checkpoint push to be finished.")
            wait([job for _, job in self._jobs])
        self.report_failures()

    def report_failures(self) -> None:
        """Warn of uploads that have failed, each once."""
        ended = [(repository, job) for repository, job in self._jobs if job.done()]
        self._jobs = [pair for pair in self._jobs if pair not in ended]
        for repository, job in ended:
            try:
                with publishing(repository):
                    job.result()
            except Exception as error:  # the run itself is well
                logger.warning("A checkpoint was not pushed, and the run went on: %s", error)

    def has_measured_card(self, began: float) -> bool:
        """Whether the output folder holds a card that was measured since the run began."""
        card = self.folder / "README.md"
        return self.is_newer(began, card.name) and MEASURED in card.read_text(encoding="utf-8")

    def is_newer(self, began: float, name: str) -> bool:
        """Whether a file of the output folder was written since the run began."""
        path = self.folder / name
        return path.is_file() and path.stat().st_mtime >= began

    @cached_property
    def _hub(self) -> HfApi:  # one, for it uploads in the background one after the other
        return HfApi(library_name="hfdistill")
