// The one exception of the library, with the exit code of a program that ends with it: those of hemf-export.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace hemf {

enum class ExitCode : int {
    bad_input = 1,           // a file or value that the user can correct
    usage = 2,               // a wrong call
    check_failed = 3,        // a check ran and found a difference beyond its bound
    missing_capability = 4,  // this machine lacks something: a GPU, TensorRT
    defect = 70,             // a defect of this library
};

// A failure that the user can act on: what failed, and what to do about it.
class Error : public std::runtime_error {
public:
    Error(ExitCode code, const std::string& message, std::string hint = {})
        : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}

    ExitCode code() const noexcept { return code_; }
    std::string message() const { return what(); }
    const std::string& hint() const noexcept { return hint_; }

private:
    ExitCode code_;
    std::string hint_;
};

inline Error bad_input(const std::string& message, std::string hint = {}) {
    return Error(ExitCode::bad_input, message, std::move(hint));
}

inline Error missing_capability(const std::string& message, std::string hint = {}) {
    return Error(ExitCode::missing_capability, message, std::move(hint));
}

}  // namespace hemf
