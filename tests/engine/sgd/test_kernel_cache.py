import logging
import sys

import pytest

from app.engine.losses.catalog import SQUARED
from app.engine.sgd.kernel_cache import load_kernel
from app.engine.sgd.kernel_template import kernel_source


@pytest.fixture
def forgotten(monkeypatch):
    """A process that has loaded no kernel yet."""
    for name in [name for name in sys.modules if name.startswith("palate_kernels.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("forgotten")
def test_a_damaged_kernel_file_is_written_again(tmp_path):
    load_kernel(SQUARED, 16, tmp_path)
    (kernel_file,) = tmp_path.glob("sgd_*.py")
    whole = kernel_file.read_text()
    kernel_file.write_text(whole[: len(whole) // 2])
    for name in [name for name in sys.modules if name.startswith("palate_kernels.")]:
        del sys.modules[name]
    load_kernel(SQUARED, 16, tmp_path)
    assert kernel_file.read_text() == whole
    assert whole.endswith(kernel_source(SQUARED, 16))


@pytest.mark.usefixtures("forgotten")
def test_a_folder_that_cannot_hold_kernels_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        kernel = load_kernel(SQUARED, 16, tmp_path / "occupied" / "kernels")
    assert callable(kernel)
    assert [record.getMessage()[:27] for record in caplog.records] == ["kernels cannot be stored in"]
