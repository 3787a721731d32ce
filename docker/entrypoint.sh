#!/bin/sh
# Numba uses a cache only where it could also write to it, and the image's file system is read-only: a copy in memory is.
set -eu
[ -e "$NUMBA_CACHE_DIR" ] || cp -a /opt/kernels "$NUMBA_CACHE_DIR"
exec "$@"
