# Triton for a T4: its tensorrt backend, and what the Python backend needs for ONNX files and TensorRT-RTX engines.
# Versions: docker/versions.env.
ARG NGC_RELEASE
FROM nvcr.io/nvidia/tritonserver:${NGC_RELEASE}-py3

ARG TENSORRT_VERSION
RUN ls /usr/lib/*-linux-gnu/libnvinfer.so.${TENSORRT_VERSION} \
    || { ls /usr/lib/*-linux-gnu/libnvinfer.so.*; echo "not TensorRT ${TENSORRT_VERSION}: see docker/versions.env"; exit 1; }
ARG TENSORRT_RTX_VERSION
RUN python3 -m pip install --no-cache-dir --break-system-packages \
    numpy onnxruntime "tensorrt-rtx-cu12==${TENSORRT_RTX_VERSION}"

EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models"]
