// The library without TensorRT: every engine is refused, for the reason that its preflight finds.
#include "hemf/engine.hpp"
#include "hemf/error.hpp"
#include "hemf/machine.hpp"
#include "hemf/preflight.hpp"

namespace hemf {

struct Stream::State {};
struct Engine::State {};

namespace {

Error off() {
    return missing_capability("This library was built without TensorRT.", "Build it with -DHEMF_ENGINE=tensorrt.");
}

}  // namespace

Machine this_machine() {
    Machine machine;
    machine.platform = platform_here();
    return machine;
}

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
void Stream::infer(const void*, int, float*) { throw off(); }
void Stream::enqueue(const void*, int, void*) { throw off(); }
void Stream::wait() {}
void* Stream::handle() const { return nullptr; }

Engine::Engine(const std::string& path, const EngineOptions&) {
    const Preflight looked = look(path, this_machine());
    if (looked.refusal() != nullptr) throw *looked.refusal();
    throw off();
}

Engine::~Engine() = default;
std::vector<float> Engine::infer(const void*, int) { throw off(); }
int Engine::classes() const { throw off(); }
int Engine::filled(int) const { throw off(); }
Stream Engine::stream(void*) { throw off(); }
const std::string& Engine::name() const { throw off(); }
const Manifest& Engine::manifest() const { throw off(); }
const Profiles& Engine::profiles() const { throw off(); }
std::size_t Engine::input_bytes() const { throw off(); }
std::vector<std::int64_t> Engine::input_shape() const { throw off(); }
std::size_t Engine::output_bytes() const { throw off(); }
std::vector<std::string> Engine::notes() const { throw off(); }
void Engine::warm_up(const std::vector<int>&) { throw off(); }

}  // namespace hemf
