"""The scratch folder: found again by the same run, by no other one, held by one process, gone after success."""

from pathlib import Path

import pytest

from panollava.training.scratch import content_hash, scratch


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "train.arrow").write_bytes(b"panoramas")
    return folder


def folder_of(*arguments) -> Path:
    """Return the folder that a run which is killed leaves behind."""
    found = []
    with pytest.raises(KeyboardInterrupt), scratch(*arguments) as folder:
        found.append(folder)
        raise KeyboardInterrupt
    assert found[0].is_dir()
    return found[0]


def test_a_stopped_run_finds_its_checkpoints_again_and_a_finished_one_leaves_none(store: Path) -> None:
    folder = folder_of("finetune", {"seed": 0}, [store])
    (folder / "checkpoint-5").mkdir()
    with scratch("finetune", {"seed": 0}, [store]) as again:
        assert again == folder
        assert (again / "checkpoint-5").is_dir()
    assert not folder.exists()


def test_settings_stage_and_content_of_the_inputs_name_the_folder(store: Path) -> None:
    first = folder_of("finetune", {"seed": 0, "rate": 0.1}, [store])
    assert folder_of("finetune", {"rate": 0.1, "seed": 0}, [store]) == first
    others = [
        folder_of("finetune", {"seed": 1, "rate": 0.1}, [store]),
        folder_of("train_resampler", {"seed": 0, "rate": 0.1}, [store]),
        folder_of("finetune", {"seed": 0, "rate": 0.1}, [store, store / "train.arrow"]),
    ]
    (store / "train.arrow").write_bytes(b"other panoramas")
    others.append(folder_of("finetune", {"seed": 0, "rate": 0.1}, [store]))
    assert len({first, *others}) == 5


def test_content_counts_and_dates_do_not(store: Path, tmp_path: Path) -> None:
    before = content_hash([store])
    (store / "train.arrow").touch()
    assert content_hash([store]) == before
    (store / "train.arrow").rename(store / "test.arrow")
    assert content_hash([store]) != before


def test_two_runs_at_once_are_refused(store: Path) -> None:
    arguments = ("finetune", {"seed": 0}, [store])
    with scratch(*arguments) as folder:
        message = f"another process is running finetune on the same inputs ({folder})"
        with pytest.raises(RuntimeError) as error, scratch(*arguments):
            pytest.fail("the second run started")
        assert message in str(error.value)
        assert folder.is_dir()
        with scratch("finetune", {"seed": 1}, [store]) as other:
            assert other != folder
    with scratch(*arguments):
        pass


def test_an_experiment_in_a_copy_uses_its_own_root(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    assert folder_of("finetune", {}, [store]).is_relative_to(tmp_path / "project" / ".scratch" / "finetune")
