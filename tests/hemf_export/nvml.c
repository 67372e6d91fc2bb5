/* NVML of a machine with one T4, for the real pynvml: as much of nvml.h as hemf-export calls. The test sets the
 * variables. Drivers before R535 lack the names of -DRENAMED, and those of CUDA 14 lack the ones that they replace,
 * which nvidia-ml-py 13.615 marks "will be removed in CUDA 14.0": -DREMOVED.
 */
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, VERSION_MISMATCH = 25 };

int devices = 1, init_error = 0, power_error = 0, temperature = 60;
static int initialized = 0;
static const char gpu[] = "T4"; /* its address is the handle */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    initialized = init_error == 0;
    return init_error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, const void** device) {
    if (!initialized) return UNINITIALIZED;
    *device = gpu;
    return (int)index < devices ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char* uuid, const void** device) {
    if (!initialized) return UNINITIALIZED;
    *device = gpu;
    return strcmp(uuid, "GPU-right") == 0 ? SUCCESS : NOT_FOUND;
}

static int text(const char* value, char* into, unsigned length) {
    strncpy(into, value, length);
    return initialized ? SUCCESS : UNINITIALIZED;
}

static int number(const void* device, unsigned value, unsigned* into) {
    *into = value;
    return device == gpu ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetName(const void* device, char* name, unsigned length) {
    return device == gpu ? text("Tesla T4", name, length) : INVALID_ARGUMENT;
}

int nvmlSystemGetDriverVersion(char* version, unsigned length) { return text("580.95.05", version, length); }

int nvmlDeviceGetEnforcedPowerLimit(const void* device, unsigned* milliwatts) {
    return number(device, 70000, milliwatts);
}

int nvmlDeviceGetPowerUsage(const void* device, unsigned* milliwatts) {
    return power_error ? power_error : number(device, 69500, milliwatts);
}

int nvmlDeviceGetClockInfo(const void* device, int kind, unsigned* megahertz) {
    return number(device, kind == 1 /* NVML_CLOCK_SM */ ? 1590 : 5000, megahertz);
}

/* GpuIdle, and SwThermalSlowdown once it is hot. */
static unsigned long long reasons(void) { return 0x1 | (temperature > 70 ? 0x20 : 0); }

#ifdef RENAMED
struct temperature_v1 {
    unsigned version;
    int sensor, temperature;
};

int nvmlDeviceGetTemperatureV(const void* device, struct temperature_v1* asked) {
    if (asked->version != (sizeof(struct temperature_v1) | 1u << 24)) return VERSION_MISMATCH;
    asked->temperature = temperature;
    return device == gpu && asked->sensor == 0 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetCurrentClocksEventReasons(const void* device, unsigned long long* found) {
    *found = reasons();
    return device == gpu ? SUCCESS : INVALID_ARGUMENT;
}
#endif

#ifndef REMOVED
int nvmlDeviceGetTemperature(const void* device, int sensor, unsigned* celsius) {
    return sensor == 0 ? number(device, (unsigned)temperature, celsius) : INVALID_ARGUMENT;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const void* device, unsigned long long* found) {
    *found = reasons();
    return device == gpu ? SUCCESS : INVALID_ARGUMENT;
}
#endif
