// JPEG through libjpeg-turbo.
#pragma once

#include <string>

#include "codec.hpp"

namespace dpdt {

// Baseline, progressive and arithmetic JPEG of 8 bits: gray, YCbCr (its Y channel), RGB, CMYK and YCCK. The slow exact
// DCT, so that the pixels are those of OpenCV and Pillow. Always whole: half the scale saves a fifth of the time, which
// finding out whether it is good enough for the picture takes back.
// Damaged data are errors, never grey areas.
Image decode_jpeg(const std::uint8_t* data, std::size_t size, std::size_t max_pixels);

// Name and version of the library.
std::string jpeg_version();

}  // namespace dpdt
