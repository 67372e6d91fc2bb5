// A deserialized engine with everything that must live as long.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hemf/engine.hpp"

namespace hemf {

// Which TensorRT the library was built with, by its name in manifests.
#if defined(HEMF_TENSORRT_RTX)
inline constexpr const char* flavour = "tensorrt-rtx";
#else
inline constexpr const char* flavour = "tensorrt";
#endif

// Keeps the last warnings and errors: where TensorRT returns null, only the logger learns the reason.
class Logger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override;
    std::string messages() const;

private:
    mutable std::mutex lock_;
    std::deque<std::string> messages_;
};

// What the user should know, each once. Threads add to it while others read it.
class Notes {
public:
    void add(const std::string& text);
    std::vector<std::string> all() const;

private:
    mutable std::mutex lock_;
    std::vector<std::string> texts_;
};

// An input or output, without the batch.
struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;
    nvinfer1::DataType type = nvinfer1::DataType::kFLOAT;

    std::size_t bytes() const;  // of one image
    std::size_t count() const;  // elements of one image
};

// TensorRT-RTX's kernels as compiled for this GPU, saved beside the engine for the next start. With TensorRT it does
// nothing.
class RuntimeCache {
public:
    RuntimeCache(nvinfer1::ICudaEngine& engine, const std::string& path, Notes& notes);
    ~RuntimeCache();
    RuntimeCache(const RuntimeCache&) = delete;
    RuntimeCache& operator=(const RuntimeCache&) = delete;

    // Create an execution context that uses the cache; null where TensorRT creates none. TensorRT-RTX's compiles the
    // kernels of a batch size before it runs it: by default it runs slower ones, which round otherwise, meanwhile.
    std::unique_ptr<nvinfer1::IExecutionContext> context(bool cuda_graphs);
    // Write the cache if anything was compiled since.
    void save();
    // Whether contexts capture CUDA graphs by themselves.
    static bool captures();

private:
    struct State;
    std::unique_ptr<State> state_;
    nvinfer1::ICudaEngine& engine_;
};

struct Loaded {
    Logger logger;
    Notes notes;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    Tensor input, output;
    std::unique_ptr<Profiles> profiles;
    std::unique_ptr<RuntimeCache> cache;
    EngineOptions options;
    std::mutex lock;  // an engine's contexts have to be created one at a time

    std::unique_ptr<nvinfer1::IExecutionContext> context();
};

// Check and deserialize an engine. Throws Error as Engine does.
std::shared_ptr<Loaded> load(const std::string& path, const Manifest& manifest, const EngineOptions& options);

}  // namespace hemf
