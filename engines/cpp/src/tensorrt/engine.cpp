#include "hemf/engine.hpp"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <exception>
#include <set>

#include "../file.hpp"
#include "hemf/error.hpp"
#include "hemf/machine.hpp"
#include "hemf/preflight.hpp"
#include "loaded.hpp"
#include "stream.hpp"

namespace hemf {

struct Engine::State {
    std::string name;
    Manifest manifest;
    std::shared_ptr<Loaded> loaded;

    std::mutex lock;
    std::condition_variable given_back;
    std::vector<std::unique_ptr<Stream::State>> idle;
    int out = 0;             // streams in use
    std::set<int> compiled;  // batch sizes whose kernels are in the cache
    std::mutex warming;      // two callers that each held half of the streams would wait forever

    std::unique_ptr<Stream::State> take() {
        std::unique_lock<std::mutex> hold(lock);
        given_back.wait(hold, [this] { return out < loaded->options.contexts; });
        ++out;
        if (idle.empty()) return nullptr;
        std::unique_ptr<Stream::State> stream = std::move(idle.back());
        idle.pop_back();
        return stream;
    }

    void give_back(std::unique_ptr<Stream::State> stream) {
        const std::lock_guard<std::mutex> hold(lock);
        --out;
        if (stream) idle.push_back(std::move(stream));
        given_back.notify_one();
    }

    void keep_compiled(const std::vector<int>& sizes) {
        const std::lock_guard<std::mutex> hold(lock);
        bool fresh = false;
        for (const int size : sizes) fresh = compiled.insert(size).second || fresh;
        if (fresh) loaded->cache->save();
    }

    void keep_all_compiled() {
        const std::lock_guard<std::mutex> hold(lock);
        loaded->cache->save();
    }
};

namespace {

Manifest checked(const std::string& path) {
    const Preflight looked = look(path, this_machine());
    if (looked.refusal() != nullptr) throw *looked.refusal();
    return *looked.manifest;
}

}  // namespace

Machine this_machine() {
    Machine machine;
    machine.platform = platform_here();
    machine.versions[flavour] =
        std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
        std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
    machine.cuda[flavour] = CUDART_VERSION / 1000;
    int version = 0;
    if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0)
        machine.driver = std::pair(version / 1000, version % 1000 / 10);
    int count = 0, major = 0, minor = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0 &&
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess)
        machine.gpu = std::pair(major, minor);
    cudaDeviceProp properties{};
    if (machine.gpu && cudaGetDeviceProperties(&properties, 0) == cudaSuccess) machine.gpu_name = properties.name;
    return machine;
}

Engine::Engine(const std::string& path, const EngineOptions& options) {
    if (options.contexts < 1)
        throw Error(ExitCode::usage, "At least one context is needed, not " + std::to_string(options.contexts) + ".");
    Manifest manifest = checked(path);
    std::shared_ptr<Loaded> loaded = load(path, manifest, options);
    const std::string version = this_machine().versions.at(flavour);
    state_.reset(new State{std::string(flavour) + " " + version + ", " + files::name(path),
                           std::move(manifest),
                           std::move(loaded),
                           {},
                           {},
                           {},
                           0,
                           {},
                           {}});
}

Engine::~Engine() {
    try {
        state_->keep_all_compiled();
    } catch (...) {  // no memory; they are compiled again
    }
}

std::vector<float> Engine::infer(const void* batch, int images) {
    const std::vector<int> parts = state_->loaded->profiles->parts(images);
    std::vector<float> logits(static_cast<std::size_t>(images) * static_cast<std::size_t>(classes()));
    std::unique_ptr<Stream::State> stream = state_->take();
    try {
        if (!stream) stream = std::make_unique<Stream::State>(state_->loaded, nullptr);
        const auto* from = static_cast<const std::uint8_t*>(batch);
        float* to = logits.data();
        for (const int part : parts) {
            stream->infer(from, part, to);
            from += static_cast<std::size_t>(part) * input_bytes();
            to += part * classes();
        }
    } catch (...) {
        state_->give_back(nullptr);  // a stream that failed is not used again
        throw;
    }
    state_->give_back(std::move(stream));
    state_->keep_compiled(parts);
    return logits;
}

void Engine::warm_up(const std::vector<int>& sizes) {
    std::set<int> parts;
    for (const BatchProfile& profile : profiles().all())
        if (sizes.empty()) parts.insert(profile.optimum);
    for (const int size : sizes)
        for (const int part : profiles().parts(size)) parts.insert(part);
    if (parts.size() > kept_sizes) {
        throw Error(ExitCode::usage, std::to_string(parts.size()) + " batch sizes are to be warmed up, and " +
                                         std::to_string(kept_sizes) + " are kept.");
    }
    const std::lock_guard<std::mutex> hold(state_->warming);
    std::vector<std::unique_ptr<Stream::State>> streams;
    std::exception_ptr failure;
    for (int number = 0; number < state_->loaded->options.contexts; ++number) streams.push_back(state_->take());
    for (std::unique_ptr<Stream::State>& stream : streams) {
        try {
            if (!stream && !failure) stream = std::make_unique<Stream::State>(state_->loaded, nullptr);
            for (const int part : parts)
                if (!failure) stream->slot(part);
        } catch (...) {
            failure = std::current_exception();
            stream.reset();
        }
        state_->give_back(std::move(stream));
    }
    if (failure) std::rethrow_exception(failure);
    state_->keep_compiled({parts.begin(), parts.end()});
}

int Engine::classes() const { return static_cast<int>(state_->loaded->output.count()); }
int Engine::filled(int images) const { return state_->loaded->profiles->filled(images); }
Stream Engine::stream(void* cuda_stream) {
    return Stream(std::make_unique<Stream::State>(state_->loaded, cuda_stream));
}
const std::string& Engine::name() const { return state_->name; }
const Manifest& Engine::manifest() const { return state_->manifest; }
const Profiles& Engine::profiles() const { return *state_->loaded->profiles; }
std::size_t Engine::input_bytes() const { return state_->loaded->input.bytes(); }
std::vector<std::int64_t> Engine::input_shape() const { return state_->loaded->input.shape; }
std::size_t Engine::output_bytes() const { return state_->loaded->output.bytes(); }

std::vector<std::string> Engine::notes() const {
    return state_->loaded->notes.all();
}

}  // namespace hemf
