// Which format a file has, and decoding it: by its first bytes, never by its name.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image.hpp"

namespace dpdt {

enum class Format { unknown, jpeg, png, dicom };

struct DecodeLimits {
    std::size_t max_pixels = 100'000'000;
};

// Bytes that detect_format looks at, at most.
constexpr std::size_t magic_bytes = 132;

Format detect_format(const std::uint8_t* data, std::size_t size);

const char* format_name(Format format);

// Decodes a JPEG or PNG file to gray; alpha is ignored. Throws ImageError; with reason `dicom` for a DICOM file, whose
// pixels are read elsewhere. Thread-safe.
Image decode(const std::uint8_t* data, std::size_t size, const DecodeLimits& limits);

}  // namespace dpdt
