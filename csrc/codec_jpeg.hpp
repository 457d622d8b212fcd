// JPEG through libjpeg-turbo.
#pragma once

#include <string>

#include "codec.hpp"

namespace dpdt {

// Baseline, progressive and arithmetic JPEG of 8 bits: gray, YCbCr (its Y channel), RGB, CMYK and YCCK. The slow exact
// DCT, so that the pixels are those of OpenCV and Pillow, or at a smaller scale by computing fewer of its frequencies.
// Damaged data are errors, never grey areas.
Image decode_jpeg(const std::uint8_t* data, std::size_t size, const DecodeOptions& options);

// Name and version of the library.
std::string jpeg_version();

}  // namespace dpdt
