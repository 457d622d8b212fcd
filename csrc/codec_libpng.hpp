// PNG through libpng: every kind of it, and the last word on files with something wrong.
#pragma once

#include <string>

#include "codec.hpp"

namespace dpdt {

// Gray, gray with alpha, palette, RGB and RGBA of 1 to 16 bits, interlaced or not.
Image decode_libpng(const std::uint8_t* data, std::size_t size, std::size_t max_pixels);

// Name and version of the library.
std::string libpng_version();

}  // namespace dpdt
