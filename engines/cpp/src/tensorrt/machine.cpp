#include "hemf/machine.hpp"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include "flavour.hpp"

namespace hemf {

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
    return machine;
}

}  // namespace hemf
