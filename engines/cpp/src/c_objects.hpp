// What stands behind the C header's pointers, and what keeps exceptions from leaving its functions.
#pragma once

#include <exception>
#include <new>

#include "hemf/error.hpp"
#include "hemf/hemf.h"
#include "hemf/image.hpp"
#include "hemf/manifest.hpp"
#include "hemf/predictor.hpp"

struct hemf_image {
    hemf::Image image;
};

struct hemf_manifest {
    hemf::Description description;
};

struct hemf_model {
    hemf::Predictor predictor;
    hemf_manifest manifest;
};

namespace hemf::c {

// Keeps message and hint for the calling thread, and gives the status back.
hemf_status failed(hemf_status status, const char* message, const char* hint) noexcept;

// No exception leaves a C function.
template <class Work>
hemf_status guarded(Work work) noexcept {
    try {
        work();
        return HEMF_OK;
    } catch (const Error& error) {
        return failed(static_cast<hemf_status>(error.code()), error.what(), error.hint().c_str());
    } catch (const std::bad_alloc&) {
        return failed(HEMF_MISSING_CAPABILITY, "There is not enough memory.", "");
    } catch (const std::exception& error) {
        return failed(HEMF_DEFECT, error.what(), "This is a defect of hemf.");
    } catch (...) {
        return failed(HEMF_DEFECT, "Something unknown was thrown.", "This is a defect of hemf.");
    }
}

inline void require(bool sound, const char* what) {
    if (!sound) throw Error(ExitCode::usage, what, "See hemf.h.");
}

}  // namespace hemf::c
