# The daemons in one image; the command says which one runs. See compose.yaml.
#
# BASE is any Debian-like image with Python 3.11 or later. Where the build cannot reach a package
# index, put the wheels of requirements.lock into wheels/ beforehand:
#   python3 -m pip wheel --require-hashes -r requirements.lock -w wheels
#
# With EXTRA=lab, and the wheels of requirements-lab.lock, the experiment lab is in it, too:
#   docker build --build-arg EXTRA=lab -t myxo-lab .
#   docker run -p 127.0.0.1:5001:5001 -e MYXO_LAB_API_TOKEN=... myxo-lab myxo lab api --listen :5001
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ARG EXTRA=
WORKDIR /src
COPY . .
# fastecdsa, which libp2p imports, has no wheel and is compiled.
RUN if [ ! -d wheels ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libgmp-dev && \
      python3 -m pip wheel --no-cache-dir --require-hashes -r requirements${EXTRA:+-$EXTRA}.lock \
        -w wheels; \
    fi
RUN python3 -m venv --without-pip /opt/myxo && \
    python3 -m pip --python /opt/myxo/bin/python3 install --no-cache-dir \
      --no-index --find-links wheels ".${EXTRA:+[$EXTRA]}"

FROM ${BASE}
COPY --from=build /opt/myxo /opt/myxo
ENV PATH=/opt/myxo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    MYXO_STATE_DIR=/var/lib/myxo \
    PYTHONUNBUFFERED=1
VOLUME /var/lib/myxo
CMD ["myxo", "--help"]
