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
RUN /opt/hemf/bin/python -m pip install --no-cache-dir '/tmp/hemf-export[triton]' && rm -rf /tmp/hemf-export

WORKDIR /work
ENTRYPOINT ["/opt/hemf/bin/hemf-export"]
CMD ["doctor"]
