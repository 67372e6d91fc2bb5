// A view of a file's bytes, with numbers read from it; who reads looks first whether they are there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hemf {

struct Bytes {
    const std::uint8_t* data = nullptr;
    std::size_t size = 0;

    bool has(std::size_t offset, std::size_t count) const { return offset <= size && count <= size - offset; }

    // What begins at `offset`; empty beyond the end.
    Bytes from(std::size_t offset) const { return offset < size ? Bytes{data + offset, size - offset} : Bytes{}; }

    Bytes first(std::size_t count) const { return {data, count < size ? count : size}; }

    bool starts_with(const char* text, std::size_t length) const {
        return size >= length && std::memcmp(data, text, length) == 0;
    }

    std::uint32_t u16(std::size_t offset, bool big) const {
        const std::uint32_t a = data[offset], b = data[offset + 1];
        return big ? (a << 8 | b) : (b << 8 | a);
    }

    std::uint32_t u32(std::size_t offset, bool big) const {
        const std::uint32_t a = u16(offset, big), b = u16(offset + 2, big);
        return big ? (a << 16 | b) : (b << 16 | a);
    }
};

}  // namespace hemf
