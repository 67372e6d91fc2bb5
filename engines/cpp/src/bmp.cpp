// Windows and OS/2 bitmaps: 1, 4, 8, 16, 24 and 32 bits, run lengths and bit fields, as far as Pillow reads them.
#include <cstring>
#include <vector>

#include "formats.hpp"

namespace hemf::formats {

namespace {

enum Compression : std::uint32_t { raw = 0, rle8 = 1, rle4 = 2, bitfields = 3 };

struct Header {
    std::uint32_t width = 0, height = 0, bits = 0, compression = raw, colours = 0;
    std::uint32_t red = 0, green = 0, blue = 0, alpha = 0;  // masks
    std::size_t pixels = 0;                                 // where they begin
    bool from_top = false;
    std::uint8_t palette[256 * 3] = {};  // black beyond its end
};

// Which byte of a pixel holds a channel: the mask says.
int byte_of(std::uint32_t mask) {
    for (int byte = 0; byte < 4; ++byte)
        if (mask == 0xffU << (8 * byte)) return byte;
    throw broken("Unsupported BMP bitfields layout");
}

void read_masks(Bytes file, std::uint32_t header_size, std::size_t& end, Header& header) {
    const bool inside = header_size >= 52;
    const std::size_t place = inside ? 54 : end;
    if (!file.has(place, 12)) throw truncated();
    header.red = file.u32(place, false), header.green = file.u32(place + 4, false),
    header.blue = file.u32(place + 8, false);
    if (inside && header_size >= 56) header.alpha = file.u32(66, false);
    if (!inside) end += 12;
    const bool known_16 = header.blue == 0x1f && ((header.red == 0xf800 && header.green == 0x7e0) ||
                                                  (header.red == 0x7c00 && header.green == 0x3e0));
    if (header.bits == 16 ? !known_16 : header.bits != 24 && header.bits != 32)
        throw broken("Unsupported BMP bitfields layout");
    if (header.bits != 16 && header.red == 0 && header.green == 0 && header.blue == 0)
        header.red = 0xff0000, header.green = 0xff00, header.blue = 0xff;
}

Header read_header(Bytes file) {
    if (!file.has(0, 18)) throw truncated();
    Header header;
    const std::uint32_t size = file.u32(14, false);
    const bool core = size == 12;
    if (!core && size != 40 && size != 52 && size != 56 && size != 64 && size != 108 && size != 124)
        throw broken("Unsupported BMP header type (" + std::to_string(size) + ")");
    if (!file.has(14, size)) throw truncated();
    if (core) {
        header.width = file.u16(18, false), header.height = file.u16(20, false), header.bits = file.u16(24, false);
    } else {
        header.width = file.u32(18, false), header.height = file.u32(22, false);
        header.from_top = file.data[25] == 0xff;  // a negative height
        if (header.from_top) header.height = ~header.height + 1U;
        header.bits = file.u16(28, false), header.compression = file.u32(30, false),
        header.colours = file.u32(46, false);
    }
    check_size(header.width, header.height);
    const std::uint32_t bits = header.bits;
    if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32)
        throw broken("Unsupported BMP pixel depth (" + std::to_string(bits) + ")");
    if (header.colours == 0) header.colours = bits <= 8 ? 1U << bits : 0;
    std::size_t end = 14 + std::size_t{size};
    if (header.compression == bitfields)
        read_masks(file, size, end, header);
    else if (header.compression > bitfields || (header.compression != raw && bits > 8))
        throw broken("Unsupported BMP compression (" + std::to_string(header.compression) + ")");
    if (bits <= 8) {
        if (header.colours > 65536)
            throw broken("Unsupported BMP palette size (" + std::to_string(header.colours) + ")");
        const std::size_t step = core ? 3 : 4;
        for (std::size_t index = 0; index < header.colours && index < 256; ++index) {
            if (!file.has(end + index * step, 3)) break;
            for (std::size_t channel = 0; channel < 3; ++channel)
                header.palette[index * 3 + channel] = file.data[end + index * step + 2 - channel];
        }
        end += step * header.colours;
    }
    const std::uint32_t offset = file.u32(10, false);
    // Some writers give the end of the header, where the palette still is.
    header.pixels = offset == 0 || (bits <= 8 && offset == 14 + size) ? end : offset;
    return header;
}

std::uint8_t widened(std::uint32_t value, std::uint32_t most) { return static_cast<std::uint8_t>(value * 255 / most); }

void put(const Header& header, const std::uint8_t* row, std::uint8_t* out) {
    const int places[3] = {header.red == 0 ? 2 : byte_of(header.red), header.red == 0 ? 1 : byte_of(header.green),
                           header.red == 0 ? 0 : byte_of(header.blue)};
    for (std::size_t x = 0; x < header.width; ++x, out += 3) {
        const std::uint8_t* pixel = row + x * (header.bits / 8);
        for (int channel = 0; channel < 3; ++channel) out[channel] = pixel[places[channel]];
    }
}

void put_16(const Header& header, const std::uint8_t* row, std::uint8_t* out) {
    const bool six = header.green == 0x7e0;  // bits of green
    for (std::size_t x = 0; x < header.width; ++x, out += 3) {
        const std::uint32_t pixel = static_cast<std::uint32_t>(row[2 * x] | row[2 * x + 1] << 8);
        out[0] = widened(pixel >> (six ? 11 : 10) & 31, 31);
        out[1] = six ? widened(pixel >> 5 & 63, 63) : widened(pixel >> 5 & 31, 31);
        out[2] = widened(pixel & 31, 31);
    }
}

void put_indices(const Header& header, const std::uint8_t* row, std::uint8_t* out) {
    for (std::size_t x = 0; x < header.width; ++x, out += 3) {
        std::uint32_t index = row[x * header.bits / 8];
        if (header.bits == 4) index = x % 2 == 0 ? index >> 4 : index & 15;
        if (header.bits == 1) index = index >> (7 - x % 8) & 1;
        std::memcpy(out, header.palette + index * 3, 3);
    }
}

// One index a byte, in the file's order of rows. What a run would write beyond its row is left out.
std::vector<std::uint8_t> unrolled(Bytes file, const Header& header) {
    const std::size_t width = header.width, wanted = width * header.height;
    std::vector<std::uint8_t> indices;
    indices.reserve(wanted);
    std::size_t at = header.pixels, x = 0;
    const bool nibbles = header.compression == rle4;
    while (indices.size() < wanted && file.has(at, 2)) {
        const std::size_t count = file.data[at], value = file.data[at + 1];
        at += 2;
        if (count > 0) {
            const std::size_t room = x < width ? width - x : 0, length = count < room ? count : room;
            for (std::size_t index = 0; index < length; ++index)
                indices.push_back(static_cast<std::uint8_t>(!nibbles         ? value
                                                            : index % 2 == 0 ? value >> 4
                                                                             : value & 15));
            x += length;
        } else if (value == 0) {
            while (indices.size() % width != 0) indices.push_back(0);
            x = 0;
        } else if (value == 1) {
            break;
        } else if (value == 2) {
            if (!file.has(at, 2)) break;
            std::size_t skipped = file.data[at] + file.data[at + 1] * width;
            at += 2;
            if (skipped > wanted - indices.size()) skipped = wanted - indices.size();
            indices.resize(indices.size() + skipped);
            x = indices.size() % width;
        } else {
            const std::size_t literal = value < wanted - indices.size() ? value : wanted - indices.size();
            const std::size_t bytes = nibbles ? (literal + 1) / 2 : literal;
            if (!file.has(at, bytes)) break;
            for (std::size_t index = 0; index < literal; ++index) {
                const std::uint8_t byte = file.data[at + (nibbles ? index / 2 : index)];
                indices.push_back(static_cast<std::uint8_t>(!nibbles ? byte : index % 2 == 0 ? byte >> 4 : byte & 15));
            }
            x += value;
            at += bytes + (at + bytes) % 2;  // runs begin at even places
        }
    }
    if (indices.size() < wanted) throw truncated();
    indices.resize(wanted);  // the last row may have run over
    return indices;
}

}  // namespace

Decoded bmp(Bytes file) {
    Header header = read_header(file);
    const bool packed = header.compression == rle8 || header.compression == rle4;
    std::vector<std::uint8_t> indices;
    if (packed) {
        indices = unrolled(file, header);
        header.bits = 8;
    }
    const std::size_t used = (std::size_t{header.width} * header.bits + 7) / 8;
    const std::size_t stride = packed ? header.width : (std::size_t{header.width} * header.bits + 31) / 32 * 4;
    const Bytes pixels = packed ? Bytes{indices.data(), indices.size()} : file.from(header.pixels);
    if (!pixels.has(0, stride * (header.height - 1) + used)) throw truncated();
    Decoded decoded{blank(header.width, header.height), 1};
    for (std::size_t y = 0; y < header.height; ++y) {
        const std::uint8_t* row = pixels.data + stride * (header.from_top ? y : header.height - 1 - y);
        std::uint8_t* out = decoded.image.rgb.data() + y * header.width * 3;
        header.bits <= 8    ? put_indices(header, row, out)
        : header.bits == 16 ? put_16(header, row, out)
                            : put(header, row, out);
    }
    return decoded;
}

}  // namespace hemf::formats
