// PNG by libpng, to the values that Pillow takes from it: no gamma, no background, the high byte of 16-bit colours.
// What an sBIT chunk says is followed as in hemf/png.py, which tells the rule.
#include <csetjmp>
#include <cstddef>
#include <memory>
#include <vector>

#include <png.h>

#include "formats.hpp"

namespace hemf::formats {

namespace {

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

// Everything up to the pixels. False where libpng gave up; like `read`, holds no object with a destructor.
bool open(Reader& reader) {
    if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
    png_set_read_fn(reader.png, &reader, take);
    png_set_user_limits(reader.png, 0x7fffffff, 0x7fffffff);  // the product is what counts: see check_size
    // The sums of what comes before the pixels were checked; theirs are not, as Pillow doesn't: zlib has its own.
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
    return true;  // what follows the pixels makes none
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

// How much larger than in the file libpng has made a sample.
std::uint32_t scale(const Reader& reader) {
    const bool small = reader.colour == PNG_COLOR_TYPE_GRAY && reader.depth < 8;
    return small ? 255U / ((1U << reader.depth) - 1) : 1;
}

// Whether the samples of all channels are as the sensor gave them, though the file should have them scaled up.
bool unscaled(const Reader& reader) {
    if (reader.used.empty()) return false;
    const int depth = reader.colour == PNG_COLOR_TYPE_PALETTE ? 8 : reader.depth;
    bool found = false;
    for (std::size_t channel = 0; channel < colours(reader); ++channel) {
        std::uint32_t seen = 0;
        for (const png_bytep row : reader.rows)
            for (std::size_t x = 0; x < reader.width; ++x) seen |= sample(reader, row, x, channel) / scale(reader);
        const int bits = reader.used[channel];
        if (seen >> bits != 0) return false;
        const std::uint32_t empty = (1U << (depth - bits)) - 1;
        found = found || (bits < depth && (seen >> (bits - 1) != 0 || (seen & empty) != 0));
    }
    return found;
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
    const PngMetadata metadata = png_metadata(file);
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
