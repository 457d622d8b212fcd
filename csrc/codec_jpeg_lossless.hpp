// Lossless JPEG, which libjpeg-turbo 2 does not have.
#pragma once

#include "codec.hpp"

namespace dpdt {

// Huffman-coded lossless JPEG (process 14, all seven predictors) of one component and 2 to 16 bits. Throws ImageError.
// Source: ITU-T T.81 (ISO/IEC 10918-1), annexes B, C, F.2.2 and H.
Image decode_jpeg_lossless(const std::uint8_t* data, std::size_t size, const DecodeOptions& options);

}  // namespace dpdt
