// The application segments of a JPEG file: EXIF, XMP, and the index of a file of several pictures (CIPA DC-007).
#include <cstring>
#include <string>

#include "formats.hpp"

namespace hemf::formats {

namespace {

constexpr std::uint8_t app1 = 0xe1, app2 = 0xe2, start_of_scan = 0xda;

bool has_parameters(std::uint8_t marker) {
    return !((marker >= 0xd0 && marker <= 0xd9) || marker == 0x01 || marker == 0xc8 ||
             (marker >= 0xf0 && marker <= 0xfd));
}

// Number of pictures in a multi-picture index, 1 where it can't be read.
std::uint32_t pictures(Bytes index) {
    if (index.size < 8) return 1;
    const bool big = index.starts_with("MM", 2);
    if (!big && !index.starts_with("II", 2)) return 1;
    const std::size_t place = index.u32(4, big);
    if (!index.has(place, 2)) return 1;
    const std::uint32_t entries = index.u16(place, big);
    for (std::uint32_t entry = 0; entry < entries; ++entry) {
        const std::size_t at = place + 2 + std::size_t{12} * entry;
        if (!index.has(at, 12)) break;
        if (index.u16(at, big) == 0xb001 && index.u16(at + 2, big) == 4) return index.u32(at + 8, big);
    }
    return 1;
}

}  // namespace

JpegMetadata jpeg_metadata(Bytes file) {
    std::string exif;
    Bytes xmp, index;
    bool gain_map = false;
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
        } else if (marker == app2 && segment.starts_with("MPF\0", 4)) {
            index = segment.from(4);
        }
        if (marker == app1) {
            const std::string text(reinterpret_cast<const char*>(segment.data), segment.size);
            gain_map = gain_map || text.find(" hdrgm:Version=\"") != std::string::npos;
        }
        at += 2 + length;
    }
    JpegMetadata found;
    found.orientation = exif_orientation({reinterpret_cast<const std::uint8_t*>(exif.data()), exif.size()});
    if (found.orientation == 0) found.orientation = xmp_orientation(xmp);
    // The further pictures of an Ultra HDR file are no frames: they make this one brighter.
    if (!gain_map) found.frames = pictures(index);
    return found;
}

}  // namespace hemf::formats
