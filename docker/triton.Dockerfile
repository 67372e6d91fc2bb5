# Triton for a T4: its tensorrt backend, and what the Python backend needs for ONNX files and TensorRT-RTX engines.
# Versions: docker/versions.env. NVIDIA's entry point stays: it starts what CMD says.
ARG NGC_RELEASE
FROM nvcr.io/nvidia/tritonserver:${NGC_RELEASE}-py3

ARG TENSORRT_VERSION
RUN find /usr /opt -name "libnvinfer.so.${TENSORRT_VERSION}*" | grep . \
    || { find /usr /opt -name "libnvinfer.so.*"; echo "not TensorRT ${TENSORRT_VERSION}: see docker/versions.env"; exit 1; }
# onnxruntime-gpu runs on a CPU too, and on the GPU with the image's own CUDA libraries, which have to be of its major
# version. The driver's library, libcuda.so.1, comes with the container's start.
ARG ONNXRUNTIME_VERSION
ARG TENSORRT_RTX_VERSION
RUN PIP_CONSTRAINT= python3 -m pip install --no-cache-dir --break-system-packages \
    numpy "onnxruntime-gpu==${ONNXRUNTIME_VERSION}" "tensorrt-rtx-cu12==${TENSORRT_RTX_VERSION}"
RUN provider=$(python3 -c "from onnxruntime import capi; print(capi.__path__[0])")/libonnxruntime_providers_cuda.so \
    && if ldd "$provider" | grep "not found" | grep -v libcuda.so.1; \
    then echo "ONNX Runtime ${ONNXRUNTIME_VERSION} is for another CUDA: see docker/versions.env"; exit 1; fi

EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models"]
