// SHA-256 (FIPS 180-4), to need no further library for hashes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace hemf {

class Sha256 {
public:
    Sha256();
    void add(const std::uint8_t* data, std::size_t size);
    // Hexadecimal; nothing can be added after it.
    std::string finish();

private:
    void block(const std::uint8_t* data);

    std::uint32_t state_[8];
    std::uint8_t pending_[64];
    std::size_t held_ = 0;
    std::uint64_t total_ = 0;
};

std::string sha256(const std::uint8_t* data, std::size_t size);

// The hash of a file; `problem` says why there is none, and is empty otherwise.
std::string sha256_of_file(const std::string& path, std::string& problem);

}  // namespace hemf
