# One image for the service, the trainer and the migrations: Python, one virtual environment, compiled kernels.
FROM python:3.13-slim-trixie AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
RUN python -m venv /opt/palate
WORKDIR /src
# Dependencies first: they change less often than the code.
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN mkdir app migrations && touch app/__init__.py migrations/__init__.py \
    && /opt/palate/bin/pip install -c constraints.txt ".[otel]"
COPY app app
COPY migrations migrations
# The image needs neither pip nor the libraries' tests. Layers store times in whole seconds, and the bytecode and kernel
# caches are keyed by the modification times of their sources, so these are rounded before anything is compiled.
RUN /opt/palate/bin/pip install --no-deps --force-reinstall . \
    && /opt/palate/bin/pip uninstall -q -y pip \
    && find /opt/palate -depth -type d -name tests -exec rm -r {} + \
    && find /opt/palate -name '*.py' -exec touch -d 2000-01-01T00:00:00Z {} + \
    && python -m compileall -q -j 0 /opt/palate
# Kernels compiled here are used on the same kind of processor; elsewhere each container compiles them at its start.
ENV NUMBA_CACHE_DIR=/tmp/kernels PALATE_KERNEL_CACHE_DIR=/tmp/kernels
RUN /opt/palate/bin/palate precompile \
    && touch -d 2000-01-01T00:00:00Z /tmp/kernels/*.py \
    && /opt/palate/bin/palate precompile \
    && mv /tmp/kernels /opt/kernels

FROM python:3.13-slim-trixie
RUN useradd --system --uid 10001 --home-dir /var/lib/palate --create-home palate \
    && install -d -o palate -g palate /run/palate /run/palate-admin
COPY docker/entrypoint.sh /usr/local/bin/palate-entrypoint
COPY --from=build /opt/palate /opt/palate
COPY --from=build --chown=palate /opt/kernels /opt/kernels
ENV PATH=/opt/palate/bin:$PATH \
    PALATE_DATA_DIR=/var/lib/palate \
    NUMBA_CACHE_DIR=/tmp/kernels \
    PALATE_KERNEL_CACHE_DIR=/tmp/kernels \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER palate
VOLUME /var/lib/palate
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["palate-entrypoint"]
CMD ["palate", "serve", "--host", "0.0.0.0"]
