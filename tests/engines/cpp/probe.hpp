#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace probe {

using Words = std::vector<std::string>;

// Bytes to the standard output.
void put(const void* data, std::size_t size);

// Paths on the standard input, each with a zero behind it.
Words listed();

// Changes bytes of each file at random, `rounds` times, and reads the result: as an image, and as a manifest and its
// golden images where the file is JSON. Ends with 0 unless something crashes; prints how many were still taken.
int fuzz(int seed, int rounds, const Words& paths);

// Tries an engine's golden images with logits from a file, `least` images at a time or a multiple.
int golden(const std::string& engine, const std::string& logits, int least);

// ENGINE LOGITS json|lines LEAST IMAGE…: what hemf-predict prints, with logits from a file.
int predict(const Words& words);

// What an engine is fed of the images that are listed, two at a time.
int fed(const std::string& engine);

}  // namespace probe
