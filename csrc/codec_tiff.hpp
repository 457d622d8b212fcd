// TIFF through libtiff.
#pragma once

#include <string>

#include "codec.hpp"

namespace dpdt {

// One page of gray or RGB samples of 8 or 16 bits in strips, with any compression that libtiff has. Where 0 is white it
// is inverted. Throws ImageError; what is another kind of TIFF is unsupported, by name.
Image decode_tiff(const std::uint8_t* data, std::size_t size, std::size_t max_pixels);

std::string tiff_version();

}  // namespace dpdt
