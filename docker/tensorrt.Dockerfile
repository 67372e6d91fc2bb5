# hemf-export on a T4 host, with the TensorRT of NVIDIA's image. Versions: docker/versions.env.
ARG NGC_RELEASE
FROM nvcr.io/nvidia/tensorrt:${NGC_RELEASE}-py3

# The image's own tensorrt is seen from this environment, and nothing that we install disturbs it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --system-site-packages /opt/hemf
ARG TENSORRT_VERSION
RUN /opt/hemf/bin/python -c "import tensorrt; found = tensorrt.__version__; \
assert found.startswith('${TENSORRT_VERSION}'), f'TensorRT {found}, not ${TENSORRT_VERSION}: see docker/versions.env'"
COPY . /tmp/hemf-export
# Some of NVIDIA's images pin packages for all of pip, in PIP_CONSTRAINT: what we need goes into our own environment.
RUN PIP_CONSTRAINT= /opt/hemf/bin/python -m pip install --no-cache-dir '/tmp/hemf-export[triton]' \
    && install -m 755 /tmp/hemf-export/docker/entrypoint.sh /opt/hemf/entrypoint.sh \
    && rm -rf /tmp/hemf-export

WORKDIR /work
ENTRYPOINT ["/opt/hemf/entrypoint.sh"]
CMD ["doctor"]
