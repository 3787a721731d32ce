"""Writes each SGD kernel to a file of its own and imports it: Numba caches only functions that come from a file.

The file is named by a hash of all that the kernel is made of (loss, row length, template, vector code): a kernel is
compiled once per machine, and a changed one never uses the cache of the old one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from numba.core.errors import NumbaWarning

from app.atomic_files import replacing
from app.engine.losses.base import Loss
from app.engine.losses.derivatives import decay_of

log = logging.getLogger(__name__)

SgdKernel = Callable[..., int]

_SOURCES = (
    *("losses/codegen.py", "losses/grammar.py", "losses/kernel_functions.py", "losses/symbols.py"),
    *("sgd/kernel_template.py", "simd/float_vectors.py", "simd/lanes.py"),
)
"""Files of the engine that determine the text of a kernel and its meaning."""
_import_lock = threading.Lock()


def load_kernel(loss: Loss, n_columns: int, folder: Path, *, explicit_vectors: bool = True) -> SgdKernel:
    """The compiled `learn_blocks` for a loss and a row length (a multiple of 16), from the folder's cache if there.

    A folder that cannot be written costs one warning and a compilation in a private temporary folder.
    explicit_vectors=False gives the plain loop: the reference that the vector steps are tested against, and the only
    kernel for penalties other than weight decay.
    """
    explicit_vectors = explicit_vectors and decay_of(loss) is not None
    engine = Path(__file__).parent.parent
    parts = [repr(loss), str((n_columns, explicit_vectors)), *((engine / source).read_text() for source in _SOURCES)]
    name = f"sgd_{_sha256(chr(0).join(parts))[:16]}"
    with _import_lock:
        module = sys.modules.get(f"palate_kernels.{name}") or _load(name, loss, n_columns, folder, explicit_vectors)
    learn_blocks: SgdKernel = module.learn_blocks
    return learn_blocks


def default_kernel_folder() -> Path:
    """The user's own cache folder: kernels are code, so never a place that others can write to."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(cache) / "palate" / "kernels"


def _load(name: str, loss: Loss, n_columns: int, folder: Path, explicit_vectors: bool) -> ModuleType:
    kernel = (name, loss, n_columns, explicit_vectors)
    try:
        return _import(_kernel_file(folder, *kernel))
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise  # Numba raises RuntimeError too when it cannot write its cache
        log.warning("kernels cannot be stored in %s (%s); compiling this one again", folder, error)
        private = Path(tempfile.mkdtemp(prefix="palate-kernels-"))
        return _import(_kernel_file(private, *kernel))


def _kernel_file(folder: Path, name: str, loss: Loss, n_columns: int, explicit_vectors: bool) -> Path:
    """The kernel's file in this folder, written if it is not there or damaged."""
    path = folder / f"{name}.py"
    if not _is_whole(path):
        from app.engine.sgd.kernel_template import kernel_source  # imports SymPy

        folder.mkdir(parents=True, exist_ok=True)
        source = kernel_source(loss, n_columns, explicit_vectors=explicit_vectors)
        with replacing(path, is_shared=True, is_durable=False) as temporary:
            temporary.write_text(f"# sha256 {_sha256(source)}\n{source}")
    return path


def _is_whole(path: Path) -> bool:
    """Whether the file exists and is complete: a damaged one must not be imported."""
    try:
        first, _, source = path.read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    return first == f"# sha256 {_sha256(source)}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"palate_kernels.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaWarning)
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
