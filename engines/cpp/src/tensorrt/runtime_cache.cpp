// The file holds a SHA-256 in hexadecimal, a line feed, and what TensorRT-RTX serialized, as in engines/caches.py.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <cstdlib>

#include "../file.hpp"
#include "../sha256.hpp"
#include "loaded.hpp"

namespace hemf {

#if defined(HEMF_RTX_INTERFACE)

namespace {

constexpr std::size_t largest_cache = std::size_t{1} << 30, hash_length = 64;

std::string plain(const std::string& text) {
    std::string out;
    for (char sign : text) {
        if (sign >= 'A' && sign <= 'Z') sign = static_cast<char>(sign - 'A' + 'a');
        const bool kept = (sign >= 'a' && sign <= 'z') || (sign >= '0' && sign <= '9') || sign == '.';
        if (kept)
            out.push_back(sign);
        else if (!out.empty() && out.back() != '-')
            out.push_back('-');
    }
    while (!out.empty() && out.back() == '-') out.pop_back();
    return out;
}

std::string place(const std::string& engine) {
    cudaDeviceProp properties{};
    const bool known = cudaGetDeviceProperties(&properties, 0) == cudaSuccess;
    return engine + "." + plain(known ? properties.name : "gpu") + ".runtime-cache";
}

}  // namespace

struct RuntimeCache::State {
    std::unique_ptr<nvinfer1::IRuntimeConfig> config;
    std::unique_ptr<nvinfer1::IRuntimeCache> cache;
    std::string path, saved;
    Notes& notes;
    bool unwritable = false;
};

RuntimeCache::RuntimeCache(nvinfer1::ICudaEngine& engine, const std::string& path, Notes& notes)
    : state_(new State{
          std::unique_ptr<nvinfer1::IRuntimeConfig>(engine.createRuntimeConfig()), nullptr, place(path), {}, notes}),
      engine_(engine) {
    if (!state_->config) return;
    state_->cache.reset(state_->config->createRuntimeCache());
    if (!state_->cache || !files::exists(state_->path)) return;
    std::string problem;
    const std::vector<std::uint8_t> content = files::read(state_->path, largest_cache, problem);
    const std::string text(content.begin(), content.end());
    const std::size_t begin = hash_length + 1;
    const bool whole =
        content.size() > begin && text.substr(0, hash_length) == sha256(content.data() + begin, content.size() - begin);
    if (!whole)
        notes.add(state_->path + " is damaged; a new one is begun.");
    else if (!state_->cache->deserialize(content.data() + begin, content.size() - begin))
        notes.add("TensorRT-RTX refuses the runtime cache " + state_->path + "; a new one is begun.");
    else
        state_->saved = text.substr(begin);
}

RuntimeCache::~RuntimeCache() = default;

std::unique_ptr<nvinfer1::IExecutionContext> RuntimeCache::context(bool cuda_graphs) {
    const std::unique_ptr<nvinfer1::IRuntimeConfig> config(engine_.createRuntimeConfig());
    if (!config) return nullptr;
    config->setDynamicShapesKernelSpecializationStrategy(nvinfer1::DynamicShapesKernelSpecializationStrategy::kEAGER);
    using Strategy = nvinfer1::CudaGraphStrategy;
    const bool set = (!state_->cache || config->setRuntimeCache(*state_->cache)) &&
                     config->setCudaGraphStrategy(cuda_graphs ? Strategy::kWHOLE_GRAPH_CAPTURE : Strategy::kDISABLED);
    return std::unique_ptr<nvinfer1::IExecutionContext>(set ? engine_.createExecutionContext(config.get()) : nullptr);
}

void RuntimeCache::save() {
    if (!state_->cache || state_->unwritable) return;
    const std::unique_ptr<nvinfer1::IHostMemory> memory(state_->cache->serialize());
    if (!memory || memory->size() == 0) return;
    const std::string data(static_cast<const char*>(memory->data()), memory->size());
    if (data == state_->saved) return;
    const std::string hash = sha256(reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
    if (files::replace(state_->path, hash + "\n" + data)) {
        state_->saved = data;
    } else {
        state_->unwritable = true;
        state_->notes.add("Compiled kernels were not saved: " + state_->path + " can't be written.");
    }
}

bool RuntimeCache::captures() { return true; }

#else

struct RuntimeCache::State {};

RuntimeCache::RuntimeCache(nvinfer1::ICudaEngine& engine, const std::string&, Notes&)
    : engine_(engine) {}
RuntimeCache::~RuntimeCache() = default;

std::unique_ptr<nvinfer1::IExecutionContext> RuntimeCache::context(bool) {
    return std::unique_ptr<nvinfer1::IExecutionContext>(engine_.createExecutionContext());
}

void RuntimeCache::save() {}
bool RuntimeCache::captures() { return false; }

#endif

}  // namespace hemf
