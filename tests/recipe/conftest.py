import pytest

from tests.recipe import material


@pytest.fixture(autouse=True)
def _dots(dots):
    """No page of these tests renders its pictures."""


@pytest.fixture
def unrehearsed(monkeypatch):
    """Runs begin without their rehearsal, which leaves nothing and changes no number: see test_rehearsal."""
    from hfdistill.recipe import rehearsal

    monkeypatch.setattr(rehearsal, "rehearse", lambda run, **_: run.describe())


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    return material.make(tmp_path_factory.mktemp("things"))


@pytest.fixture
def here(things, tmp_path, monkeypatch, request):
    """A folder with the test module's PAGE, in which the names of the page are those of the material."""
    for path in things.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "page.yaml").write_text(request.module.PAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path
