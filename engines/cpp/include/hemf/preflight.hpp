// May this engine run here? Asked before a plan is deserialized, which is to run native code out of a file.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hemf/error.hpp"
#include "hemf/machine.hpp"
#include "hemf/manifest.hpp"

namespace hemf {

// The first bytes of a plan: its flavour, and the version that serialized it.
struct PlanHeader {
    std::string backend;                 // "tensorrt" or "tensorrt-rtx"
    std::optional<std::string> version;  // "10.16.1.11"; none where a newer layout hides it
};

// Throws Error (bad_input): no such file, or not the start of a plan.
PlanHeader read_plan_header(const std::string& path);

struct Check {
    enum class Outcome { fine, refused, not_checked };

    std::string what;  // hash, plan header, platform, TensorRT, driver, compute capability
    Outcome outcome = Outcome::fine;
    std::string found;           // a description
    std::optional<Error> error;  // to throw before the plan is run
};

struct Preflight {
    std::optional<PlanHeader> header;
    std::optional<Manifest> manifest;
    std::vector<Check> checks;

    // The first reason not to run it here, such as a missing GPU or TensorRT; null if there is none.
    const Error* refusal() const;
};

// Check an engine against its manifest and a machine, without running any of it.
Preflight look(const std::string& path, const Machine& machine);

}  // namespace hemf
