// One execution context per profile, and one set of buffers per batch size, on one CUDA stream.
#pragma once

#include <list>
#include <map>
#include <memory>

#include "cuda.hpp"
#include "hemf/engine.hpp"
#include "loaded.hpp"

namespace hemf {

// Batch sizes whose buffers and graph are kept; the least recently used makes room.
inline constexpr std::size_t kept_sizes = 8;

struct Stream::State {
    // Buffers of one batch size, and the graph that runs the engine on them.
    struct Slot {
        int images = 0;
        cuda::Device input, output;
        cuda::Pinned host_input, host_output;
        cuda::Graph graph;
    };

    State(std::shared_ptr<Loaded> engine, void* cuda_stream);
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    void infer(const void* batch, int images, float* logits);
    void enqueue(const void* device_batch, int images, void* device_logits);
    void wait();

    nvinfer1::IExecutionContext& context(int images);
    void bind(nvinfer1::IExecutionContext& context, const void* input, void* output, int images);
    void launch(nvinfer1::IExecutionContext& context, int images);
    Slot& slot(int images);
    void capture(nvinfer1::IExecutionContext& context, Slot& fresh);

    std::shared_ptr<Loaded> loaded;
    cudaStream_t stream = nullptr;
    bool own = false;
    // A context keeps its profile, so that graphs that were captured with it stay valid.
    std::map<int, std::unique_ptr<nvinfer1::IExecutionContext>> contexts;
    std::list<Slot> slots;  // the most recently used first
};

}  // namespace hemf
