// JPEG 2000 through OpenJPEG.
#pragma once

#include <string>

#include "codec.hpp"

namespace dpdt {

// A codestream or JP2 file of one component and up to 16 bits, lossless or not. The wavelet transform holds the picture
// at halves, quarters …: a smaller one is decoded where options allow it. Signed streams give two's complement, and so
// do unsigned ones with `as_signed`: the bits are the same. Throws ImageError.
Image decode_jpeg2000(const std::uint8_t* data, std::size_t size, bool as_signed, const DecodeOptions& options);

// The same without DICOM around it, at full scale; 1 to 7 and 9 to 15 bits are as they are, since min-max follows.
Image decode_bare_jpeg2000(const std::uint8_t* data, std::size_t size, std::size_t max_pixels);

std::string jpeg2000_version();

}  // namespace dpdt
