// A loaded engine: runs any batch that its profiles take, from any thread, or on the caller's CUDA stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hemf/manifest.hpp"
#include "hemf/profiles.hpp"
#include "hemf/runner.hpp"

namespace hemf {

struct EngineOptions {
    bool cuda_graphs = true;  // launch each batch size as one captured graph
    int contexts = 4;         // threads that run at the same time; each holds the engine's scratch memory
};

class Engine;

// One execution context with its stream, buffers and CUDA graphs. For one thread at a time; its engine must outlive it.
class Stream {
public:
    ~Stream();
    Stream(Stream&&) noexcept;
    Stream& operator=(Stream&&) noexcept;

    // Host memory → host memory; waits for the result. `images` must fit one profile.
    void infer(const void* batch, int images, float* logits);

    // GPU memory → GPU memory, enqueued and not waited for: both must stay valid until `wait` returns or the stream has
    // reached that point. Logits are in the engine's output type. `images` must fit one profile.
    void enqueue(const void* device_batch, int images, void* device_logits);

    void wait();

    // The cudaStream_t.
    void* handle() const;

private:
    friend class Engine;
    struct State;
    explicit Stream(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

class Engine : public Runner {
public:
    // Check a plan and load it onto the first GPU that CUDA shows.
    //
    // Throws Error: not the file that its manifest describes, not a plan, or one that TensorRT refuses
    // (bad_input); for another TensorRT, GPU or machine, or a library that was built without TensorRT
    // (missing_capability).
    explicit Engine(const std::string& path, const EngineOptions& options = {});
    ~Engine() override;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Thread-safe. A batch over the largest profile is run in parts.
    std::vector<float> infer(const void* batch, int images) override;
    // Create all contexts, and allocate, compile, run and capture batch sizes in each: the optimum of each profile, or
    // else `sizes`. The first batch of a size does all that, which stalls the whole GPU: a server does it before it
    // is ready. Throws Error: a size that the profiles don't take (bad_input), or more sizes than are kept (usage).
    void warm_up(const std::vector<int>& sizes = {});

    int classes() const override;
    int filled(int images) const override;

    // A stream for the caller, on `cuda_stream` (a cudaStream_t) if one is given, else on a new one.
    Stream stream(void* cuda_stream = nullptr);

    const std::string& name() const;  // TensorRT's version and the file, for reports
    const Manifest& manifest() const;
    const Profiles& profiles() const;
    std::size_t input_bytes() const;                // bytes of an image
    std::vector<std::int64_t> input_shape() const;  // of one image: (3, H, W) or (H, W, 3)
    std::size_t output_bytes() const;               // bytes of an image's logits
    // Notes for the user, such as on caches that couldn't be used, or batches without a CUDA graph.
    std::vector<std::string> notes() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace hemf
