// PNG by libpng, to the values that Pillow takes from it: no gamma, no background, the high byte of 16-bit colours.
// An sBIT chunk is followed by the rule in hemf_export/images/png.py.
#include <csetjmp>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <png.h>
#include <zlib.h>

#include "formats.hpp"

namespace hemf::formats {

namespace {

// What libpng ignores: EXIF in its two forms, XMP, the number of frames, and the bits of a sample that are used.
struct Metadata {
    int orientation = 1;
    std::uint32_t frames = 1;
    std::vector<int> used;  // bits of each channel, where the file says that they are fewer than it stores; else none
};

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
    const int stored = colour == 3 ? 8 : depth;  // a palette's colours are bytes
    std::vector<int> used;
    bool fewer = false;
    for (std::size_t channel = 0; channel < chunk.size && channel < channels; ++channel) {
        used.push_back(chunk.data[channel]);
        if (used.back() == 0 || used.back() > stored) return {};
        fewer = fewer || used.back() < stored;
    }
    return chunk.size == channels && fewer ? used : std::vector<int>();
}

// Also checks the checksums of the chunks before the pixels.
Metadata read_metadata(Bytes file) {
    Metadata metadata;
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
            metadata.used = significant(chunk, depth, colour);
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
    metadata.orientation = exif_orientation(bytes_of(exif.empty() ? profile : exif));
    if (metadata.orientation == 0) metadata.orientation = xmp_orientation(bytes_of(xmp));
    // A picture for viewers without animation counts as one more.
    if (animation >= 1 && animation <= 0x80000000U) metadata.frames = animation + (default_image ? 1 : 0);
    return metadata;
}

// All that must outlive a longjmp out of libpng.
struct Reader {
    png_structp png = nullptr;
    png_infop info = nullptr;
    Bytes file;
    std::size_t at = 0;
    bool cut = false;
    char message[200] = "";
    Image image;
    std::vector<std::uint8_t> data;  // as libpng gives it, whole: an interlaced image comes in passes
    std::vector<png_bytep> rows;
    std::size_t row_bytes = 0, width = 0;
    int channels = 0;
    int depth = 0;
    int colour = 0;
    bool wide = false;      // whether a sample is two bytes
    std::vector<int> used;  // bits of each channel, where they are fewer than `depth`
    std::uint8_t palette[256 * 3] = {};  // black beyond its end

    Reader() = default;
    ~Reader() {
        if (png != nullptr) png_destroy_read_struct(&png, &info, nullptr);
    }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
};

[[noreturn]] void fail(png_structp png, png_const_charp message) {
    auto* reader = static_cast<Reader*>(png_get_error_ptr(png));
    std::size_t length = 0;
    for (; length + 1 < sizeof reader->message && message[length] != '\0'; ++length)
        reader->message[length] = message[length];
    reader->message[length] = '\0';
    png_longjmp(png, 1);
}

void ignore(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep out, std::size_t count) {
    auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
    if (!reader->file.has(reader->at, count)) {
        reader->cut = true;
        png_error(png, "the file ends");
    }
    std::memcpy(out, reader->file.data + reader->at, count);
    reader->at += count;
}

// Everything up to the pixels. False where libpng gave up. As in `read`, no local has a destructor, which longjmp
// would skip.
bool open(Reader& reader) {
    if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
    png_set_read_fn(reader.png, &reader, take);
    png_set_user_limits(reader.png, 0x7fffffff, 0x7fffffff);  // the product is what counts: see check_size
    // The checksums before the pixels were checked; those of the pixels are not, as in Pillow: zlib has its own.
    png_set_crc_action(reader.png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    png_read_info(reader.png, reader.info);
    return true;
}

bool read(Reader& reader) {
    if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
    png_structp png = reader.png;
    reader.depth = png_get_bit_depth(png, reader.info);
    reader.colour = png_get_color_type(png, reader.info);
    if (reader.colour == PNG_COLOR_TYPE_PALETTE) {
        png_colorp colours = nullptr;
        int count = 0;
        png_get_PLTE(png, reader.info, &colours, &count);
        for (int index = 0; index < count && index < 256; ++index) {
            reader.palette[index * 3] = colours[index].red;
            reader.palette[index * 3 + 1] = colours[index].green;
            reader.palette[index * 3 + 2] = colours[index].blue;
        }
        if (reader.depth < 8) png_set_packing(png);
    } else if (reader.colour == PNG_COLOR_TYPE_GRAY && reader.depth < 8) {
        png_set_expand_gray_1_2_4_to_8(png);
    } else if (reader.colour != PNG_COLOR_TYPE_GRAY && reader.depth == 16 && reader.used.empty()) {
        png_set_strip_16(png);
    }
    png_set_interlace_handling(png);
    png_read_update_info(png, reader.info);
    reader.row_bytes = png_get_rowbytes(png, reader.info);
    reader.channels = png_get_channels(png, reader.info);
    reader.wide = png_get_bit_depth(png, reader.info) == 16;  // now, unlike that of the file
    reader.data.resize(reader.row_bytes * reader.rows.size());
    for (std::size_t y = 0; y < reader.rows.size(); ++y) reader.rows[y] = reader.data.data() + y * reader.row_bytes;
    png_read_image(png, reader.rows.data());
    return true;  // what follows the pixels doesn't matter
}

// Samples that make up a pixel's colour.
std::size_t colours(const Reader& reader) {
    return reader.colour == PNG_COLOR_TYPE_GRAY || reader.colour == PNG_COLOR_TYPE_GRAY_ALPHA ? 1 : 3;
}

// A sample as the file has it; of a palette its colours. Greys of less than 8 bits were scaled up by libpng.
std::uint32_t sample(const Reader& reader, const std::uint8_t* row, std::size_t x, std::size_t channel) {
    if (reader.colour == PNG_COLOR_TYPE_PALETTE) return reader.palette[row[x] * std::size_t{3} + channel];
    const std::size_t place = x * static_cast<std::size_t>(reader.channels) + channel;
    return reader.wide ? static_cast<std::uint32_t>(row[place * 2] << 8 | row[place * 2 + 1]) : row[place];
}

// The factor by which libpng scaled a sample up.
std::uint32_t scale(const Reader& reader) {
    const bool small = reader.colour == PNG_COLOR_TYPE_GRAY && reader.depth < 8;
    return small ? 255U / ((1U << reader.depth) - 1) : 1;
}

// Whether the samples of all channels are as the sensor gave them, though the file should have them scaled up.
bool unscaled(const Reader& reader) {
    if (reader.used.empty()) return false;
    const int depth = reader.colour == PNG_COLOR_TYPE_PALETTE ? 8 : reader.depth;
    bool beyond = false;
    for (std::size_t channel = 0; channel < colours(reader); ++channel) {
        std::uint32_t seen = 0;
        for (const png_bytep row : reader.rows)
            for (std::size_t x = 0; x < reader.width; ++x) seen |= sample(reader, row, x, channel) / scale(reader);
        const int bits = reader.used[channel];
        if (seen >> bits != 0) return false;
        const std::uint32_t empty = (1U << (depth - bits)) - 1;
        beyond = beyond || (bits < depth && (seen >> (bits - 1) != 0 || (seen & empty) != 0));
    }
    return beyond;
}

void put(const Reader& reader, const std::uint8_t* row, std::uint8_t* out, bool as_used) {
    const std::size_t count = colours(reader);
    const bool grey16 = reader.colour == PNG_COLOR_TYPE_GRAY && reader.depth == 16;
    for (std::size_t x = 0; x < reader.width; ++x, out += 3) {
        for (std::size_t channel = 0; channel < count; ++channel) {
            const std::uint32_t value = sample(reader, row, x, channel);
            if (as_used)
                out[channel] = eight_bits(value / scale(reader), reader.used[channel]);
            else if (grey16)
                out[channel] = eight_bits(value, 16);
            else
                out[channel] = static_cast<std::uint8_t>(reader.wide ? value >> 8 : value);
        }
        if (count == 1) out[1] = out[2] = out[0];
    }
}

}  // namespace

Decoded png(Bytes file) {
    const Metadata metadata = read_metadata(file);
    const auto reader = std::make_unique<Reader>();
    reader->file = file;
    reader->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, reader.get(), fail, ignore);
    if (reader->png == nullptr) throw broken("libpng is not the one that this library was built with");
    reader->info = png_create_info_struct(reader->png);
    if (reader->info == nullptr || !open(*reader)) throw reader->cut ? truncated() : broken(reader->message);
    const png_uint_32 width = png_get_image_width(reader->png, reader->info);
    const png_uint_32 height = png_get_image_height(reader->png, reader->info);
    check_size(width, height);
    if (metadata.frames > 1) throw frames(metadata.frames);
    reader->rows.resize(height);
    reader->width = width;
    reader->used = metadata.used;
    if (!read(*reader)) throw reader->cut ? truncated() : broken(reader->message);
    Image image = blank(width, height);
    const bool as_used = unscaled(*reader);
    for (std::size_t y = 0; y < height; ++y) put(*reader, reader->rows[y], image.rgb.data() + y * width * 3, as_used);
    return {std::move(image), metadata.orientation};
}

}  // namespace hemf::formats
