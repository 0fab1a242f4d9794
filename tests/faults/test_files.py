"""What the kit writes files by: each is whole or the old one, whoever else writes or cleans."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from data_prep.mini_benchmark.build import encode
from fitclip_kit.store.files import atomic_path, remove_abandoned, write_text
from tests.faults.conftest import SmallDisk
from tests.faults.work import names

NUMBERS = np.random.default_rng(0).integers(0, 256, 60_000, np.uint8)
TENSORS = {"x": torch.from_numpy(NUMBERS)}
TABLE = pd.DataFrame({"number": NUMBERS[:8000]})
NOTEBOOK = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x" * 60_000, id="one")])


def write_torch(path: Path) -> None:
    with path.open("wb") as file:  # as export_openai does
        torch.save(TENSORS, file)


def write_figure(path: Path) -> None:
    figure, axes = plt.subplots()
    axes.imshow(NUMBERS.reshape(200, 300))
    plt.close(figure)
    figure.savefig(path, metadata={"Software": None})


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": lambda path: path.write_text("x" * 60_000),
    "a.npy": lambda path: np.save(path, NUMBERS),
    "a.csv": lambda path: TABLE.to_csv(path),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pandas(TABLE), path),
    "a.safetensors": lambda path: safetensors.torch.save_file(TENSORS, path),
    "a.pt": write_torch,
    "a.png": write_figure,
    "a.ipynb": lambda path: nbformat.write(NOTEBOOK, str(path)),
    "a.mp4": lambda path: encode(path, NUMBERS[:49152].reshape(4, 64, 64, 3), crf=20),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_whole_or_the_old_one(disk: SmallDisk, name: str) -> None:
    """Also if there is room for all but the last bytes, which are written when a file is closed."""
    target = disk.folder / name

    def write() -> None:
        with atomic_path(target) as temporary:
            WRITERS[name](temporary)

    write()
    whole = target.read_bytes()
    failed = 0
    last = (len(whole) - 1) // 4096 * 4096
    for room in (0, last // 2, last, last + 4096, last + 5 * 4096):
        write_text(target, "old")
        try:
            with disk.without_room(room):
                write()
        except Exception as error:
            assert any(text in str(error) for text in disk.says), error
            assert target.read_text() == "old"
            failed += 1
        else:
            assert target.read_bytes() == whole
        assert names(disk.folder) == [name]
    assert failed >= 3, "there was always room"


def test_writers_and_a_cleaner_do_not_disturb_each_other(tmp_path: Path) -> None:
    def write(letter: str) -> None:
        for _ in range(30):
            with atomic_path(tmp_path / "a.txt") as temporary, temporary.open("w") as file:
                for _ in range(20):
                    file.write(letter * 1000)
                    file.flush()

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, letter) for letter in "abc"]
        while not all(one.done() for one in writing):
            remove_abandoned(tmp_path)
        for one in writing:
            one.result()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() in [letter * 20_000 for letter in "abc"]


def test_scraps_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["a.tmp", ".a.tmp", ".hidden", "b.abcdefgh.tmp.txt", ".b.tmp.txt"]
    scraps = [".b.abcdefgh.tmp.txt", "deep/er/.c.x_1.d.abcd_e12.tmp", ".frames_00001.x.tmp.npy"]
    for name in [*kept, *scraps]:
        write_text(tmp_path / name, "x")
    assert remove_abandoned(tmp_path) == sorted(tmp_path / name for name in scraps)
    assert names(tmp_path) == sorted([*kept, "deep"])
