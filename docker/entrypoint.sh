#!/bin/sh
# Numba uses a cache only if it can write to it, and the file system is read-only: copy the cache to memory.
set -eu
[ -e "$NUMBA_CACHE_DIR" ] || cp -a /opt/kernels "$NUMBA_CACHE_DIR"
exec "$@"
