# One image for the service, the trainer and the migrations.
FROM python:3.13-slim-trixie AS build
RUN python -m venv /opt/palate
WORKDIR /src
# The dependencies first: they change less often than the code.
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN mkdir app migrations && touch app/__init__.py migrations/__init__.py \
    && /opt/palate/bin/pip install --no-cache-dir -c constraints.txt .
COPY app app
COPY migrations migrations
RUN /opt/palate/bin/pip install --no-cache-dir --no-deps --force-reinstall .
# Kernels compiled here are used where the processor is the same kind; elsewhere each is compiled once at start.
ENV NUMBA_CACHE_DIR=/opt/palate/kernels \
    PALATE_KERNEL_CACHE_DIR=/opt/palate/kernels
RUN /opt/palate/bin/palate warm-up

FROM python:3.13-slim-trixie
RUN useradd --system --uid 10001 --home-dir /var/lib/palate --create-home palate
COPY --from=build /opt/palate /opt/palate
# Numba only uses a cache that it could also write to.
COPY --from=build --chown=palate /opt/palate/kernels /opt/palate/kernels
ENV PATH=/opt/palate/bin:$PATH \
    PALATE_DATA_DIR=/var/lib/palate \
    NUMBA_CACHE_DIR=/opt/palate/kernels \
    PALATE_KERNEL_CACHE_DIR=/opt/palate/kernels \
    PYTHONUNBUFFERED=1
USER palate
VOLUME /var/lib/palate
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["palate", "serve", "--host", "0.0.0.0"]
