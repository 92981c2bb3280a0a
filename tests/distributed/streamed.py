"""Trains on a stream, in as many processes as it is started in: FOLDER, rows of a process's batch."""

import sys

import torch

from tests.trainer.test_streams import build, texts, weights


def main(folder, size):
    """Train and write the weights down."""
    options = {"optim": "sgd", "learning_rate": 0.1, "per_device_train_batch_size": size, "dropout": 0.0}
    trainer = build(folder, texts(20).to_iterable_dataset(), eval_dataset=texts(8), **options)
    trainer.train()
    if trainer.args.process_index == 0:
        torch.save(weights(trainer), f"{folder}/weights.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
