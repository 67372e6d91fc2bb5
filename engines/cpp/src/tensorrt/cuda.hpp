// CUDA resources that free themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

#include "hemf/error.hpp"

namespace hemf::cuda {

inline void require(cudaError_t state, const char* what) {
    if (state == cudaSuccess) return;
    const std::string reason = cudaGetErrorString(state);
    if (state == cudaErrorMemoryAllocation)
        throw missing_capability(std::string(what) + ": " + reason + ".",
                                 "Fewer contexts at once, or smaller batches.");
    throw Error(ExitCode::defect, std::string(what) + ": " + reason + ".");
}

struct FreeDevice {
    void operator()(void* memory) const { cudaFree(memory); }
};
struct FreePinned {
    void operator()(void* memory) const { cudaFreeHost(memory); }
};
struct DestroyGraph {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};

using Device = std::unique_ptr<void, FreeDevice>;
using Pinned = std::unique_ptr<void, FreePinned>;
using Graph = std::unique_ptr<CUgraphExec_st, DestroyGraph>;

// GPU memory.
inline Device device(std::size_t size) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, size), "Memory of the GPU");
    return Device(memory);
}

// Pinned host memory, which the GPU copies from and to asynchronously.
inline Pinned pinned(std::size_t size) {
    void* memory = nullptr;
    require(cudaMallocHost(&memory, size), "Pinned memory");
    return Pinned(memory);
}

}  // namespace hemf::cuda
