// Which format a file has, and decoding it: by its first bytes, never by its name.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image.hpp"

namespace dpdt {

enum class Format { unknown, jpeg, png, jpeg2000, tiff, dicom };

struct DecodeOptions {
    std::size_t max_pixels = 100'000'000;

    // Not 0: JPEG 2000 may be decoded at the smallest scale that leaves about this many rows and columns.
    std::size_t min_height = 0;
    std::size_t min_width = 0;
    unsigned max_halvings = 32;

    bool reducible() const { return min_height > 0 && min_width > 0 && max_halvings > 0; }
};

// Bytes that detect_format looks at, at most.
constexpr std::size_t magic_bytes = 132;

Format detect_format(const std::uint8_t* data, std::size_t size);

const char* format_name(Format format);

// Decodes a JPEG, PNG, JPEG 2000 or TIFF file to gray; alpha is ignored. Throws ImageError; with reason `dicom` for a
// DICOM file, whose pixels are read elsewhere. Thread-safe.
Image decode(const std::uint8_t* data, std::size_t size, std::size_t max_pixels = DecodeOptions{}.max_pixels);

}  // namespace dpdt
