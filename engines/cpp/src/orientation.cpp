// The EXIF orientation: where a file states it, and turning an image upright by it.
#include <cstring>
#include <string>

#include "formats.hpp"

namespace hemf::formats {

namespace {

constexpr std::uint32_t orientation_tag = 0x0112;

}  // namespace

int exif_orientation(Bytes block) {
    for (int prefix = 0; prefix < 2 && block.starts_with("Exif\0\0", 6); ++prefix) block = block.from(6);
    if (block.size < 8) return 0;
    const bool big = block.starts_with("MM", 2);
    if (!big && !block.starts_with("II", 2)) return 0;
    const std::size_t place = block.u32(4, big);
    if (!block.has(place, 2)) return 0;
    const std::uint32_t entries = block.u16(place, big);
    int orientation = 0;
    for (std::uint32_t entry = 0; entry < entries; ++entry) {
        const std::size_t at = place + 2 + std::size_t{12} * entry;
        if (!block.has(at, 12)) break;
        if (block.u16(at, big) != orientation_tag || block.u32(at + 4, big) != 1) continue;
        const std::uint32_t type = block.u16(at + 2, big);  // 3: 16 bits, 4: 32 bits
        if (type != 3 && type != 4) continue;
        const std::uint32_t value = type == 3 ? block.u16(at + 8, big) : block.u32(at + 8, big);
        orientation = value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
    return orientation;
}

int xmp_orientation(Bytes packet) {
    static const std::string key = "tiff:Orientation";
    const std::string text(reinterpret_cast<const char*>(packet.data), packet.size);
    for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) {
        std::size_t digit = at + key.size();
        if (text.compare(digit, 2, "=\"") == 0)
            digit += 2;
        else if (text.compare(digit, 1, ">") == 0)
            digit += 1;
        else
            continue;
        if (digit < text.size() && text[digit] >= '0' && text[digit] <= '9') {
            const int value = text[digit] - '0';
            return value >= 1 && value <= 8 ? value : 1;
        }
    }
    return 0;
}

Image upright(Image image, int orientation) {
    if (orientation < 2 || orientation > 8) return image;
    const std::size_t width = static_cast<std::size_t>(image.width), height = static_cast<std::size_t>(image.height);
    const bool turned = orientation >= 5;
    Image out{turned ? image.height : image.width, turned ? image.width : image.height, {}};
    out.rgb.resize(image.rgb.size());
    const std::size_t columns = turned ? height : width, rows = turned ? width : height;
    std::uint8_t* to = out.rgb.data();
    for (std::size_t y = 0; y < rows; ++y) {
        for (std::size_t x = 0; x < columns; ++x, to += 3) {
            std::size_t from_x = turned ? y : x, from_y = turned ? x : y;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8)
                from_x = width - 1 - from_x;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7)
                from_y = height - 1 - from_y;
            std::memcpy(to, image.rgb.data() + (from_y * width + from_x) * 3, 3);
        }
    }
    return out;
}

}  // namespace hemf::formats
