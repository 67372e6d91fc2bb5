// JPEG by libjpeg, set as Pillow sets it: accurate DCT, smooth upsampling, libjpeg's own choice of the colour space.
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>

#include <jpeglib.h>

#include "formats.hpp"

namespace hemf::formats {

namespace {

// What the segments before the pixels state. Further pictures in the file (MPO) are ignored.
struct Metadata {
    int orientation = 1;
    int bits = 8;  // a sample
};

constexpr std::uint8_t app1 = 0xe1, start_of_scan = 0xda;

bool has_parameters(std::uint8_t marker) {
    return !((marker >= 0xd0 && marker <= 0xd9) || marker == 0x01 || marker == 0xc8 ||
             (marker >= 0xf0 && marker <= 0xfd));
}

// Whether a segment states the size and the bits of the image.
bool starts_frame(std::uint8_t marker) {
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

Metadata read_metadata(Bytes file) {
    std::string exif;
    Bytes xmp;
    Metadata metadata;
    std::size_t at = 2;
    while (file.has(at, 2)) {
        if (file.data[at] != 0xff) {
            ++at;
            continue;
        }
        const std::uint8_t marker = file.data[at + 1];
        if (marker == 0xff || marker == 0) {  // padding, or an escaped byte
            ++at;
            continue;
        }
        if (marker == start_of_scan) break;
        if (!has_parameters(marker)) {
            at += 2;
            continue;
        }
        if (!file.has(at, 4)) break;
        const std::size_t length = file.u16(at + 2, true);
        if (length < 2 || !file.has(at + 4, length - 2)) break;  // libjpeg reports what is wrong
        const Bytes segment{file.data + at + 4, length - 2};
        if (marker == app1 && segment.starts_with("Exif\0\0", 6)) {
            const std::size_t skipped = exif.empty() ? 0 : 6;
            exif.append(reinterpret_cast<const char*>(segment.data) + skipped, segment.size - skipped);
        } else if (marker == app1 && segment.starts_with("http://ns.adobe.com/xap/1.0/\0", 29)) {
            xmp = segment.from(29);
        } else if (starts_frame(marker) && segment.size > 0) {
            metadata.bits = segment.data[0];
        }
        at += 2 + length;
    }
    metadata.orientation = exif_orientation({reinterpret_cast<const std::uint8_t*>(exif.data()), exif.size()});
    if (metadata.orientation == 0) metadata.orientation = xmp_orientation(xmp);
    return metadata;
}

struct Failure {
    jpeg_error_mgr manager;
    std::jmp_buf place;
    char message[JMSG_LENGTH_MAX];
};

// All that must outlive a longjmp out of libjpeg.
struct Reader {
    jpeg_decompress_struct info;
    Failure failure;
    jpeg_source_mgr source;
    Image image;
    std::vector<std::uint8_t> row;
    bool created = false;
    bool cut = false;
    bool too_large = false;

    Reader() : info(), failure(), source() {}
    ~Reader() {
        if (created) jpeg_destroy_decompress(&info);
    }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
};

[[noreturn]] void fail(j_common_ptr info) {
    auto* failure = reinterpret_cast<Failure*>(info->err);
    failure->manager.format_message(info, failure->message);
    std::longjmp(failure->place, 1);
}

void ignore(j_common_ptr) {}
void ignore_level(j_common_ptr, int) {}
void nothing(j_decompress_ptr) {}

[[noreturn]] void cut_short(j_decompress_ptr info) {
    static_cast<Reader*>(info->client_data)->cut = true;
    std::longjmp(reinterpret_cast<Failure*>(info->err)->place, 1);
}

boolean no_more(j_decompress_ptr info) { cut_short(info); }

void skip(j_decompress_ptr info, long count) {
    if (count <= 0) return;
    if (static_cast<std::size_t>(count) > info->src->bytes_in_buffer) cut_short(info);
    info->src->next_input_byte += count;
    info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
}

void put(const Reader& reader, std::uint8_t* out) {
    const std::uint8_t* in = reader.row.data();
    const int components = reader.info.output_components;
    for (unsigned x = 0; x < reader.info.output_width; ++x, in += components, out += 3) {
        if (components == 1) {
            out[0] = out[1] = out[2] = in[0];
        } else if (components == 3) {
            out[0] = in[0], out[1] = in[1], out[2] = in[2];
        } else {  // stored inverted, as Adobe does: Pillow takes all CMYK files for such
            std::uint8_t cmyk[4];
            for (int channel = 0; channel < 4; ++channel) cmyk[channel] = static_cast<std::uint8_t>(255 - in[channel]);
            cmyk_to_rgb(cmyk, out);
        }
    }
}

// False where libjpeg gave up. No local has a destructor: longjmp would skip it.
bool read(Reader& reader, Bytes file) {
    jpeg_decompress_struct& info = reader.info;
    info.err = jpeg_std_error(&reader.failure.manager);
    reader.failure.manager.error_exit = fail;
    reader.failure.manager.output_message = ignore;
    reader.failure.manager.emit_message = ignore_level;
    if (setjmp(reader.failure.place) != 0) return false;
    jpeg_create_decompress(&info);
    reader.created = true;
    info.client_data = &reader;
    info.src = &reader.source;
    reader.source.init_source = nothing;
    reader.source.term_source = nothing;
    reader.source.fill_input_buffer = no_more;
    reader.source.skip_input_data = skip;
    reader.source.resync_to_restart = jpeg_resync_to_restart;
    reader.source.next_input_byte = file.data;
    reader.source.bytes_in_buffer = file.size;
    jpeg_read_header(&info, TRUE);
    if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4) {
        std::snprintf(reader.failure.message, sizeof reader.failure.message, "cannot handle %d-layer images",
                      info.num_components);
        return false;
    }
    if (info.image_height > max_pixels / info.image_width) {
        reader.too_large = true;
        return false;
    }
    info.out_color_space = info.num_components == 1 ? JCS_GRAYSCALE : info.num_components == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_start_decompress(&info);
    reader.image = blank(info.output_width, info.output_height);
    reader.row.resize(static_cast<std::size_t>(info.output_width) * static_cast<std::size_t>(info.output_components));
    while (info.output_scanline < info.output_height) {
        const std::size_t at = info.output_scanline;
        JSAMPROW row = reader.row.data();
        jpeg_read_scanlines(&info, &row, 1);
        put(reader, reader.image.rgb.data() + at * info.output_width * 3);
    }
    return true;  // what follows the last row doesn't matter
}

}  // namespace

Decoded jpeg(Bytes file) {
    const Metadata metadata = read_metadata(file);
    const auto reader = std::make_unique<Reader>();
    if (metadata.bits != 8) throw Refused{" is a JPEG file of other than 8 bits a sample.", eight_or_sixteen};
    if (!read(*reader, file)) {
        if (reader->too_large) check_size(reader->info.image_width, reader->info.image_height);
        throw reader->cut ? truncated() : broken(reader->failure.message);
    }
    return {std::move(reader->image), metadata.orientation};
}

}  // namespace hemf::formats
