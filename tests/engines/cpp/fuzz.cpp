#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>

#include "hemf/error.hpp"
#include "hemf/golden.hpp"
#include "hemf/image.hpp"
#include "hemf/manifest.hpp"
#include "hemf/preprocess.hpp"
#include "probe.hpp"

namespace probe {

namespace {

using Content = std::vector<std::uint8_t>;

Content changed(Content content, std::mt19937& random) {
    const auto pick = [&random](std::size_t count) {
        return static_cast<std::size_t>(random()) % (count == 0 ? 1 : count);
    };
    for (std::size_t times = 1 + pick(4); times > 0 && !content.empty(); --times) {
        // Headers are short, and most of what can go wrong lies there.
        const std::size_t reach = pick(2) == 0 ? content.size() : content.size() < 128 ? content.size() : 128;
        const std::size_t at = pick(reach);
        switch (pick(6)) {
            case 0:
                content[at] ^= static_cast<std::uint8_t>(1U << pick(8));
                break;
            case 1:
                content[at] = static_cast<std::uint8_t>(pick(2) == 0 ? 0xff : 0);
                break;
            case 2:
                content[at] = static_cast<std::uint8_t>(random());
                break;
            case 3:
                content.resize(pick(content.size()));
                break;
            case 4:
                content.insert(content.begin() + static_cast<std::ptrdiff_t>(at), 1 + pick(9),
                               static_cast<std::uint8_t>(random()));
                break;
            default:
                content.erase(content.begin() + static_cast<std::ptrdiff_t>(at));
                break;
        }
    }
    return content;
}

bool taken_as_image(const Content& content) {
    try {
        const hemf::Image image = hemf::decode(content.data(), content.size(), "image");
        hemf::Preprocess preprocess;
        preprocess.size = 8;
        preprocess.resize = 9;
        return preprocess.pixels(image).size() == 192;
    } catch (const hemf::Error&) {
        return false;
    }
}

bool taken_as_manifest(const Content& content) {
    try {
        const hemf::Manifest manifest = hemf::Manifest::parse(std::string(content.begin(), content.end()), "manifest");
        manifest.rebuild_settings();
        manifest.stripped();
        manifest.description("engine").input().shape();
        manifest.profiles().filled(3);
        return true;
    } catch (const hemf::Error&) {
        return false;
    }
}

}  // namespace

int fuzz(int seed, int rounds, const Words& paths) {
    std::mt19937 random(static_cast<unsigned>(seed));
    int taken = 0, all = 0;
    for (const std::string& path : paths) {
        std::ifstream file(path, std::ios::binary);
        const Content content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        const bool text = !content.empty() && content[0] == '{';
        for (int round = 0; round < rounds; ++round, ++all) {
            const Content other = changed(content, random);
            taken += (text ? taken_as_manifest(other) : taken_as_image(other)) ? 1 : 0;
        }
    }
    std::printf("%d of %d\n", taken, all);
    return 0;
}

}  // namespace probe
