"""What a cache or a checkpoint is found by is the same in a process with other hashes and addresses."""

import json

import pytest
import torch

from hfdistill import ModelTeacher
from hfdistill.network.tokenizers import tokenizer_print
from hfdistill.teachers.text.identity import identity_of_function
from tests.conftest import make_bert, make_tokenizer
from tests.distributed.launched import ROOT
from tests.teachers.text.test_identity import SAME


def identities():
    """Fingerprints of teachers, identities of functions and the print of a tokenizer."""
    dtypes = (torch.float32, torch.bfloat16)
    return {
        "teachers": [ModelTeacher(make_bert().to(dtype)).fingerprint() for dtype in dtypes],
        "functions": [identity_of_function(make()) for make in SAME],
        "tokenizers": [tokenizer_print(make_tokenizer())],
    }


@pytest.fixture(scope="module")
def elsewhere(fresh):
    code = "import json; from tests.test_another_process import identities; print(json.dumps(identities()))"
    done = fresh(code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["teachers", "functions", "tokenizers"])
def test_it_finds_the_same(elsewhere, kind):
    assert elsewhere[kind] == identities()[kind]
    assert len(set(elsewhere["teachers"])) == 2
