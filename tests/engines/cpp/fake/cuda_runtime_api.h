// As much of CUDA's runtime as engines need, in the host's memory: so that sanitizers see every buffer, and a test what
// was asked for. Streams work at once; a capture keeps what it is given, and a launch does it again.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define CUDART_VERSION 12080

namespace fake {
inline std::atomic<int> captures{0}, launches{0}, enqueues{0}, contexts{0}, streams{0}, compiled{0}, fallbacks{0};
inline bool fails(const char* what) { return std::getenv(what) != nullptr; }
using Work = std::vector<std::function<void()>>;
}  // namespace fake

struct CUstream_st {
    bool capturing = false;
    fake::Work work;

    void give(std::function<void()> step) { capturing ? work.push_back(std::move(step)) : step(); }
};
struct CUgraph_st {
    fake::Work work;
};
struct CUgraphExec_st {
    fake::Work work;
};
using cudaStream_t = CUstream_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorUnknown = 999
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
constexpr unsigned cudaStreamNonBlocking = 1;

inline const char* cudaGetErrorString(cudaError_t state) {
    if (state == cudaErrorStreamCaptureInvalidated) return "operation failed due to a previous error during capture";
    return state == cudaErrorMemoryAllocation ? "out of memory" : "unknown";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 12080, cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) {
    return *count = std::getenv("FAKE_NO_GPU") == nullptr ? 1 : 0, cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    return *value = which == cudaDevAttrComputeCapabilityMajor ? 7 : 5, cudaSuccess;
}

struct cudaDeviceProp {
    char name[256];
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    return std::strcpy(properties->name, "Tesla T4"), cudaSuccess;
}

inline cudaError_t cudaMalloc(void** memory, std::size_t size) {
    if (std::getenv("FAKE_NO_MEMORY") != nullptr) return cudaErrorMemoryAllocation;
    return *memory = std::malloc(size), cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** memory, std::size_t size) { return *memory = std::malloc(size), cudaSuccess; }
inline cudaError_t cudaFree(void* memory) { return std::free(memory), cudaSuccess; }
inline cudaError_t cudaFreeHost(void* memory) { return std::free(memory), cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind, cudaStream_t) {
    return std::memcpy(to, from, size), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t size, cudaStream_t) {
    return std::memset(memory, value, size), cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    ++fake::streams;
    return *stream = new CUstream_st, cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return stream->capturing ? cudaErrorUnknown : cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (fake::fails("FAKE_NO_CAPTURE")) return cudaErrorUnknown;
    return stream->capturing = true, cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    stream->capturing = false;
    if (fake::fails("FAKE_BROKEN_CAPTURE")) return stream->work.clear(), cudaErrorStreamCaptureInvalidated;
    *graph = new CUgraph_st{std::move(stream->work)};
    stream->work.clear();
    ++fake::captures;
    return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
    return *ready = new CUgraphExec_st{graph->work}, cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t) {
    for (const auto& step : ready->work) step();
    ++fake::launches;
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) { return delete ready, cudaSuccess; }
