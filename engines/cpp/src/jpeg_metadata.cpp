// The segments of a JPEG file before its pixels: EXIF, XMP, and the bits of a sample.
#include <cstring>
#include <string>

#include "formats.hpp"

namespace hemf::formats {

namespace {

constexpr std::uint8_t app1 = 0xe1, start_of_scan = 0xda;

bool has_parameters(std::uint8_t marker) {
    return !((marker >= 0xd0 && marker <= 0xd9) || marker == 0x01 || marker == 0xc8 ||
             (marker >= 0xf0 && marker <= 0xfd));
}

// Whether a segment tells the size and the bits of what follows.
bool starts_frame(std::uint8_t marker) {
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

}  // namespace

JpegMetadata jpeg_metadata(Bytes file) {
    std::string exif;
    Bytes xmp;
    JpegMetadata found;
    std::size_t at = 2;
    while (file.has(at, 2)) {
        if (file.data[at] != 0xff) {
            ++at;
            continue;
        }
        const std::uint8_t marker = file.data[at + 1];
        if (marker == 0xff || marker == 0) {  // filling, or an escaped byte
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
        if (length < 2 || !file.has(at + 4, length - 2)) break;  // libjpeg tells what is wrong
        const Bytes segment{file.data + at + 4, length - 2};
        if (marker == app1 && segment.starts_with("Exif\0\0", 6)) {
            const std::size_t skipped = exif.empty() ? 0 : 6;
            exif.append(reinterpret_cast<const char*>(segment.data) + skipped, segment.size - skipped);
        } else if (marker == app1 && segment.starts_with("http://ns.adobe.com/xap/1.0/\0", 29)) {
            xmp = segment.from(29);
        } else if (starts_frame(marker) && segment.size > 0) {
            found.bits = segment.data[0];
        }
        at += 2 + length;
    }
    found.orientation = exif_orientation({reinterpret_cast<const std::uint8_t*>(exif.data()), exif.size()});
    if (found.orientation == 0) found.orientation = xmp_orientation(xmp);
    return found;
}

}  // namespace hemf::formats
