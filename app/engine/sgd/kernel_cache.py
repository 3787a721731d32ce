"""Writes each SGD kernel to a file of its own, imports it, and so has Numba cache it; `kernel_template` has its text.

Numba caches only functions that come from a file. So each kernel is a file named by a hash of all its parts (loss, row
length, template and the vector code): the same kernel is compiled once per machine, and a changed one never uses the
cache of the old one.
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
from typing import Any

from app.atomic_files import replacing
from app.engine.losses.base import Loss
from app.engine.sgd import kernel_template
from app.engine.simd import float_vectors, lanes

log = logging.getLogger(__name__)

SgdKernel = Callable[..., int]

_import_lock = threading.Lock()


def load_kernel(loss: Loss, n_columns: int, folder: Path, *, explicit_vectors: bool = True) -> SgdKernel:
    """The compiled `learn_blocks` for a loss and a row length (a multiple of 16), from the folder's cache if there.

    A folder that cannot be written costs one warning and a compilation in a private temporary folder.
    explicit_vectors=False gives the plain loop: the reference that the vector steps are tested against, and the only
    kernel for penalties other than weight decay.
    """
    from app.engine.losses.codegen import decay_of

    explicit_vectors = explicit_vectors and decay_of(loss) is not None
    name = _kernel_name(loss, n_columns, explicit_vectors)
    with _import_lock:
        module = sys.modules.get(_module_name(name))
        if module is None:
            module = _load(name, loss, n_columns, folder, explicit_vectors)
    learn_blocks: SgdKernel = module.learn_blocks
    return learn_blocks


def default_kernel_folder() -> Path:
    """The user's own cache folder: kernels are code, so never a place that others can write to."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(cache) / "palate" / "kernels"


def _kernel_name(loss: Loss, n_columns: int, explicit_vectors: bool) -> str:
    from app.engine.losses import codegen

    parts = [repr(loss), str((n_columns, explicit_vectors)), *codegen.sources()]
    parts += [Path(module.__file__ or "").read_text() for module in (lanes, float_vectors, kernel_template)]
    return f"sgd_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def _module_name(kernel_name: str) -> str:
    return f"palate_kernels.{kernel_name}"


def _load(name: str, loss: Loss, n_columns: int, folder: Path, explicit_vectors: bool) -> ModuleType:
    try:
        return _import(name, _kernel_file(name, loss, n_columns, folder, explicit_vectors))
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise  # Numba raises RuntimeError too when it cannot write its cache
        log.warning("kernels cannot be stored in %s (%s); compiling this one again", folder, error)
        private = Path(tempfile.mkdtemp(prefix="palate-kernels-"))
        return _import(name, _kernel_file(name, loss, n_columns, private, explicit_vectors))


def _kernel_file(name: str, loss: Loss, n_columns: int, folder: Path, explicit_vectors: bool) -> Path:
    """The kernel's file in this folder, written if it is not there or damaged."""
    path = folder / f"{name}.py"
    if not _is_whole(path):
        folder.mkdir(parents=True, exist_ok=True)
        source = kernel_template.kernel_source(loss, n_columns, explicit_vectors=explicit_vectors)
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


def _import(name: str, path: Path) -> ModuleType:
    from numba.core.errors import NumbaWarning

    spec = importlib.util.spec_from_file_location(_module_name(name), path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[_module_name(name)] = module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaWarning)
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_module_name(name)]
        raise
    return module  # type: ignore[no-any-return]
