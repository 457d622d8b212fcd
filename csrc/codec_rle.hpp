// DICOM's run-length encoding.
#pragma once

#include "codec.hpp"

namespace dpdt {

// One frame of one sample a pixel: a segment a byte of the sample, the highest first, each packed by PackBits.
// Throws ImageError. Source: DICOM PS3.5, annex G.
Image decode_rle(const std::uint8_t* data, std::size_t size, std::size_t rows, std::size_t columns, int sample_bytes);

}  // namespace dpdt
