# Headrace with the clients of every server of compose.yaml. Build: docker build -t headrace .
FROM python:3.12-slim AS build
WORKDIR /app
RUN pip install --no-cache-dir uv
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY src src
COPY examples examples
RUN uv sync --frozen --no-dev --no-editable --extra kafka --extra kinesis --extra postgres --extra redis

FROM python:3.12-slim
# LightGBM needs OpenMP.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /app/.venv /app/.venv
COPY deploy/entrypoint.sh /usr/local/bin/headrace-entrypoint
RUN chmod 0755 /usr/local/bin/headrace-entrypoint \
    && useradd --uid 10001 --create-home headrace \
    && install -d -o headrace -g headrace /state /project
# Kernels are compiled for the machine that runs them, once, into the volume.
ENV PATH=/app/.venv/bin:$PATH HEADRACE_STATE=/state NUMBA_CACHE_DIR=/state/kernels PYTHONUNBUFFERED=1
USER headrace
WORKDIR /project
VOLUME /state
ENTRYPOINT ["headrace-entrypoint"]
CMD ["headrace", "doctor"]
