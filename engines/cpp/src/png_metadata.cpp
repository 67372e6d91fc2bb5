// The chunks of a PNG file that libpng leaves alone: EXIF in its two forms, XMP, how many frames there are, and how
// many bits of a sample are used.
#include <cstring>
#include <string>

#include <zlib.h>

#include "formats.hpp"

namespace hemf::formats {

namespace {

constexpr std::size_t longest_text = std::size_t{1} << 20;  // a compressed text may be a bomb

std::string inflated(Bytes packed) {
    std::string text;
    z_stream stream{};
    if (inflateInit(&stream) != Z_OK) return text;
    stream.next_in = const_cast<Bytef*>(packed.data);
    stream.avail_in = static_cast<uInt>(packed.size);
    char block[4096];
    int state = Z_OK;
    while (state == Z_OK && text.size() < longest_text) {
        stream.next_out = reinterpret_cast<Bytef*>(block);
        stream.avail_out = sizeof block;
        state = inflate(&stream, Z_NO_FLUSH);
        if (state == Z_OK || state == Z_STREAM_END) text.append(block, sizeof block - stream.avail_out);
    }
    inflateEnd(&stream);
    return state == Z_STREAM_END ? text : std::string();
}

// A text chunk: keyword, zero, what follows. False without a zero.
bool divide(Bytes chunk, std::string& key, Bytes& rest) {
    const void* zero = chunk.size == 0 ? nullptr : std::memchr(chunk.data, 0, chunk.size);
    if (zero == nullptr) return false;
    const auto length = static_cast<std::size_t>(static_cast<const std::uint8_t*>(zero) - chunk.data);
    key.assign(reinterpret_cast<const char*>(chunk.data), length);
    rest = chunk.from(length + 1);
    return true;
}

int hexadecimal(char sign) {
    if (sign >= '0' && sign <= '9') return sign - '0';
    if (sign >= 'a' && sign <= 'f') return sign - 'a' + 10;
    if (sign >= 'A' && sign <= 'F') return sign - 'A' + 10;
    return -1;
}

// ImageMagick's way of keeping EXIF: a line feed, the kind, the length, then hexadecimal digits in lines.
std::string raw_profile(const std::string& text) {
    std::size_t at = 0;
    for (int line = 0; line < 3; ++line) {
        at = text.find('\n', at);
        if (at == std::string::npos) return {};
        ++at;
    }
    std::string block;
    int high = -1;
    for (; at < text.size(); ++at) {
        const int digit = hexadecimal(text[at]);
        if (digit < 0) continue;
        if (high < 0)
            high = digit;
        else {
            block.push_back(static_cast<char>(high << 4 | digit));
            high = -1;
        }
    }
    return block;
}

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}; }

// An international text chunk that holds an XMP packet; empty for others.
std::string xmp_packet(Bytes chunk) {
    std::string key, language, translated;
    Bytes rest;
    if (!divide(chunk, key, rest) || key != "XML:com.adobe.xmp" || rest.size < 2) return {};
    const bool packed = rest.data[0] != 0;
    Bytes text;
    if (!divide(rest.from(2), language, rest) || !divide(rest, translated, text)) return {};
    return packed ? inflated(text) : std::string(reinterpret_cast<const char*>(text.data), text.size);
}

// Bits used of each channel; empty where they are all that is stored, or can't be true.
std::vector<int> significant(Bytes chunk, int depth, int colour) {
    const std::size_t channels = colour == 0 ? 1 : colour == 4 ? 2 : colour == 6 ? 4 : 3;
    const int stored = colour == 3 ? 8 : depth;  // of a palette its colours
    std::vector<int> used;
    bool fewer = false;
    for (std::size_t channel = 0; channel < chunk.size && channel < channels; ++channel) {
        used.push_back(chunk.data[channel]);
        if (used.back() == 0 || used.back() > stored) return {};
        fewer = fewer || used.back() < stored;
    }
    return chunk.size == channels && fewer ? used : std::vector<int>();
}

}  // namespace

PngMetadata png_metadata(Bytes file) {
    PngMetadata found;
    std::string exif, profile, xmp, key;
    bool pixels = false, default_image = false, controlled = false;
    std::uint32_t animation = 0;
    int depth = 8, colour = 0;
    bool stated = false;
    for (std::size_t at = 8; file.has(at, 8);) {
        const std::size_t length = file.u32(at, true);
        const std::string kind(reinterpret_cast<const char*>(file.data) + at + 4, 4);
        if (kind == "IEND") break;
        if (!file.has(at + 8, length) || !file.has(at + 8 + length, 4)) {
            if (pixels || kind == "IDAT") break;
            throw truncated();
        }
        const Bytes chunk{file.data + at + 8, length};
        if (kind == "IDAT") {
            default_image = default_image || !controlled;
            pixels = true;
        } else if (!pixels) {
            const auto sum = crc32(0, file.data + at + 4, static_cast<uInt>(length + 4));
            if (sum != file.u32(at + 8 + length, true)) throw broken("broken PNG file (bad checksum in " + kind + ")");
        }
        Bytes rest;
        if (kind == "IHDR" && length >= 10) {
            depth = chunk.data[8];
            colour = chunk.data[9];
        }
        if (kind == "sBIT" && !pixels && !stated) {
            stated = true;
            found.used = significant(chunk, depth, colour);
        }
        if (kind == "fcTL") controlled = true;
        if (kind == "acTL" && !pixels && length >= 8) animation = file.u32(at + 8, true);
        if (kind == "eXIf") exif.assign(reinterpret_cast<const char*>(chunk.data), length);
        if ((kind == "tEXt" || kind == "zTXt") && divide(chunk, key, rest) && key == "Raw profile type exif") {
            const bool packed = kind == "zTXt";
            if (packed) rest = rest.from(1);  // the method of compression
            profile =
                raw_profile(packed ? inflated(rest) : std::string(reinterpret_cast<const char*>(rest.data), rest.size));
        }
        if (kind == "iTXt") {
            const std::string packet = xmp_packet(chunk);
            if (!packet.empty()) xmp = packet;
        }
        at += 12 + length;
    }
    found.orientation = exif_orientation(bytes_of(exif.empty() ? profile : exif));
    if (found.orientation == 0) found.orientation = xmp_orientation(bytes_of(xmp));
    // A picture for viewers without animation counts as one more.
    if (animation >= 1 && animation <= 0x80000000U) found.frames = animation + (default_image ? 1 : 0);
    return found;
}

}  // namespace hemf::formats
