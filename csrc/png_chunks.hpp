// The frame of a PNG file: its chunks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "file.hpp"

namespace dpdt {

// A PNG file without anything unusual in it: not interlaced, 8 or 16 bits a sample, no palette.
struct PlainPng {
    std::size_t height;
    std::size_t width;
    std::size_t channels;      // 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA
    std::size_t sample_bytes;  // 1 or 2
    Bytes deflated;            // the zlib stream of all IDAT chunks
    bool rest;                 // bytes follow the end
    double pixel_aspect;       // height of a pixel over its width

    std::size_t pixel_bytes() const { return channels * sample_bytes; }
    std::size_t row_bytes() const { return width * pixel_bytes(); }
};

// Nothing if the file is of another kind or anything is wrong with it: checksums, order, lengths. Throws ImageError as
// check_size and check_plausible do, before memory of the picture's size is taken.
// Source: W3C, Portable Network Graphics (second edition), sections 5 and 11.
std::optional<PlainPng> read_plain_png(const std::uint8_t* data, std::size_t size, std::size_t max_pixels);

// Throws ImageError (truncated) if a header promises more pixels than the file's bytes can hold: memory must not be
// taken for them. Rows are counted without interlacing.
void check_plausible(std::size_t height, std::size_t row_bits, std::size_t size);

}  // namespace dpdt
