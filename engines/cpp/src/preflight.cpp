// Integrity first (a manifest, its hash, the plan's own header), then what the machine has, as in engines/preflight.py.
#include "hemf/preflight.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "file.hpp"

namespace hemf {

namespace {

using Outcome = Check::Outcome;

constexpr int largest_byte = 255;

Check fine(const std::string& what, const std::string& found) { return {what, Outcome::fine, found, std::nullopt}; }

Check refused(const std::string& what, const std::string& found, Error error) {
    return {what, Outcome::refused, found, std::move(error)};
}

Check origin(const std::string& path, const std::optional<Manifest>& manifest) {
    if (!manifest) {
        return refused("manifest", "none",
                       bad_input(path + " has no manifest (" + Manifest::place(path) + "): nothing tells what it is.",
                                 "A plan is executable code. Take the manifest along with it, or build it again."));
    }
    const std::string kind = manifest->text("kind").value_or("");
    if (kind != "engine") {
        return refused("manifest", "of kind '" + kind + "'",
                       bad_input("The manifest of " + path + " is of kind '" + kind + "', not of an engine."));
    }
    return fine("hash", "SHA-256 " + manifest->sha256().substr(0, 16) + "… as in the manifest");
}

std::vector<int> numbers(const std::string& version) {
    std::vector<int> result;
    int number = -1;
    for (const char sign : version + ".") {
        if (sign >= '0' && sign <= '9' && number < 100'000'000) {
            number = (number < 0 ? 0 : number) * 10 + (sign - '0');
        } else if (number >= 0) {
            result.push_back(number);
            number = -1;
        }
    }
    return result;
}

// Whether the plan may be of this version. The header has a byte for each number: a larger one can't be compared.
bool agrees(const std::string& stored, const std::string& version) {
    const std::vector<int> own = numbers(stored), full = numbers(version);
    return own.size() == full.size() && std::equal(own.begin(), own.end(), full.begin(),
                                                   [](int a, int b) { return a == b || b > largest_byte; });
}

Check agreement(const std::string& path, const PlanHeader& header, const Manifest& manifest) {
    const std::string backend = manifest.text("backend").value_or("?"),
                      version = manifest.text("backend_version").value_or("?");
    const std::string own = header.backend + " " + header.version.value_or("of an unknown version");
    const bool same = header.backend == backend && (!header.version || agrees(*header.version, version));
    if (same) return fine("plan header", own);
    return refused(
        "plan header", own,
        bad_input(path + " was serialized by " + own + "; its manifest says " + backend + " " + version + ".",
                  "One of them was put there by hand. Build the engine again " + manifest.rebuild_settings() + "."));
}

Check version_here(const std::string& path, const PlanHeader& header, const Manifest& manifest,
                   const Machine& machine) {
    std::string wanted = manifest.text("backend_version").value_or(header.version.value_or("?"));
    if (header.version && !agrees(*header.version, wanted)) wanted = *header.version;
    const auto there = machine.versions.find(header.backend);
    const std::string again = manifest.rebuild_settings() + ".";
    if (there == machine.versions.end()) {
        return {"TensorRT", Outcome::not_checked, "needs " + header.backend + " " + wanted + "; none here",
                missing_capability(
                    path + " needs " + header.backend + " " + wanted + ", which this program was not built with.",
                    "Build the C++ library with it, or build the engine with what is here " + again)};
    }
    const bool later = manifest.flag("version_compatible") && numbers(there->second) >= numbers(wanted);
    if (there->second == wanted || later) return fine("TensorRT", header.backend + " " + there->second + " here");
    return refused("TensorRT", header.backend + " " + there->second + " here, built by " + wanted,
                   missing_capability(path + " was built by " + header.backend + " " + wanted + "; here is " +
                                          there->second + ", and plans don't cross versions.",
                                      "Build it again here " + again));
}

// None where the driver, or the CUDA version of the linked TensorRT, isn't known.
std::optional<Check> driver_here(const std::string& path, const PlanHeader& header, const Machine& machine) {
    const auto wanted = machine.cuda.find(header.backend);
    if (!machine.driver || wanted == machine.cuda.end()) return std::nullopt;
    const std::string served = std::to_string(machine.driver->first) + "." + std::to_string(machine.driver->second);
    const std::string major = std::to_string(wanted->second);
    // A driver supports all CUDA versions up to its own, and later ones of the same major version.
    if (machine.driver->first >= wanted->second)
        return fine("driver", "serves CUDA " + served + ", " + header.backend + " needs " + major);
    return refused("driver", "serves CUDA up to " + served + ", " + header.backend + " needs " + major,
                   missing_capability(path + " runs in " + header.backend + ", which is here built for CUDA " + major +
                                          "; the NVIDIA driver serves CUDA up to " + served + ".",
                                      "Update the driver, or build with " + header.backend + " for CUDA " +
                                          std::to_string(machine.driver->first) + "."));
}

Check capability_here(const std::string& path, const Manifest& manifest, const Machine& machine) {
    const char* what = "compute capability";
    const std::optional<std::string> wanted = manifest.text("compute_capability");
    if (!machine.gpu) {
        return {what, Outcome::not_checked, "for " + wanted.value_or("an unknown one") + "; no GPU here",
                missing_capability(
                    path + " needs a GPU of " + wanted.value_or("its compute capability") + "; none is seen here.",
                    "Run it on a machine with that GPU and an NVIDIA driver.")};
    }
    const std::string here = "sm_" + std::to_string(machine.gpu->first) + std::to_string(machine.gpu->second);
    if (!wanted) return {what, Outcome::not_checked, "the plan doesn't say; here is " + here, std::nullopt};
    const std::optional<std::string> only = manifest.text("built_on");
    const bool alone = here == *wanted && only && !manifest.flag("hardware_compatible", true);
    if (alone && machine.gpu_name && *machine.gpu_name != *only) {
        return refused(what, here + ", but built for " + *only + " alone, here is " + *machine.gpu_name,
                       missing_capability(path + " was built for " + *only + " alone; this GPU is " +
                                              *machine.gpu_name + ", of the same compute capability.",
                                          "Build it again here " + manifest.rebuild_settings() +
                                              ", or for all GPUs of the compute capability."));
    }
    if (here == *wanted) return fine(what, here);
    return refused(what, "built for " + *wanted + ", here is " + here,
                   missing_capability(path + " was built for " + *wanted + "; this GPU is " + here + ".",
                                      "Build one for it " + manifest.rebuild_settings(here) + "."));
}

}  // namespace

std::string platform_here() {
#if defined(__x86_64__) || defined(_M_X64)
    const std::string processor = "x86_64";
#elif defined(__aarch64__) || defined(_M_ARM64)
    const std::string processor = "aarch64";
#else
    const std::string processor = "unknown";
#endif
#if defined(_WIN32)
    return "win32-" + processor;
#elif defined(__APPLE__)
    return "darwin-" + processor;
#else
    return "linux-" + processor;
#endif
}

// The layout is the one that trtexec's --getPlanVersionOnly reads: a tag, a serialization version of 0, and the four
// numbers of the version at byte 24. TensorRT-RTX has another tag.
PlanHeader read_plan_header(const std::string& path) {
    if (!files::is_regular(path))
        throw bad_input("No engine at " + path + ".", "Build one from an ONNX file.");
    unsigned char start[28] = {};
    std::size_t count = 0;
    if (const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{std::fopen(path.c_str(), "rb"), std::fclose})
        count = std::fread(start, 1, sizeof start, file.get());
    else
        throw bad_input(path + " can't be read.");
    const bool plain = std::memcmp(start, "ftrt", 4) == 0, rtx = std::memcmp(start, "vtrt", 4) == 0;
    if (count < sizeof start || (!plain && !rtx)) {
        throw bad_input(
            path + " is not a TensorRT plan: " + (count == 0 ? "it is empty." : "it does not begin as one."),
            "Build it again.");
    }
    PlanHeader header{rtx ? "tensorrt-rtx" : "tensorrt", std::nullopt};
    if (start[4] == 0 && start[5] == 0 && start[6] == 0 && start[7] == 0) {
        header.version = std::to_string(start[24]) + "." + std::to_string(start[25]) + "." + std::to_string(start[26]) +
                         "." + std::to_string(start[27]);
    }
    return header;
}

const Error* Preflight::refusal() const {
    for (const Check& check : checks)
        if (check.error) return &*check.error;
    return nullptr;
}

Preflight look(const std::string& path, const Machine& machine) {
    Preflight result;
    try {
        result.header = read_plan_header(path);
        result.manifest = Manifest::read(path);
        result.checks.push_back(origin(path, result.manifest));
        if (!result.manifest) return result;
        result.checks.push_back(agreement(path, *result.header, *result.manifest));
    } catch (const Error& error) {
        result.checks.push_back(refused("file", error.message(), error));
        return result;
    }
    const PlanHeader& header = *result.header;
    const Manifest& manifest = *result.manifest;
    if (const std::optional<std::string> platform = manifest.text("platform")) {
        if (*platform == machine.platform) {
            result.checks.push_back(fine("platform", machine.platform));
        } else {
            result.checks.push_back(
                refused("platform", "built on " + *platform + ", here is " + machine.platform,
                        missing_capability(path + " was built on " + *platform + "; here is " + machine.platform +
                                               ", and plans don't cross platforms.",
                                           "Build it again here " + manifest.rebuild_settings() + ".")));
        }
    }
    result.checks.push_back(version_here(path, header, manifest, machine));
    if (std::optional<Check> driver = driver_here(path, header, machine)) result.checks.push_back(std::move(*driver));
    result.checks.push_back(capability_here(path, manifest, machine));
    return result;
}

}  // namespace hemf
