// PNG: the usual kinds through libdeflate and loops of our own, the others through libpng.
#pragma once

#include <string>

#include "codec.hpp"

namespace dpdt {

// Gray, gray with alpha, palette, RGB and RGBA of 1 to 16 bits, interlaced or not. 16-bit files give 16-bit pixels.
// Alpha, transparency, gamma and colour profiles are ignored. Damaged data are errors.
Image decode_png(const std::uint8_t* data, std::size_t size, std::size_t max_pixels);

// Names and versions of the libraries.
std::string png_version();
std::string inflate_version();

}  // namespace dpdt
