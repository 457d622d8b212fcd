// JPEG-LS through CharLS.
#pragma once

#include <string>

#include "codec.hpp"

namespace dpdt {

// Lossless and near-lossless JPEG-LS of one component and 2 to 16 bits. Throws ImageError.
Image decode_jpeg_ls(const std::uint8_t* data, std::size_t size, const DecodeOptions& options);

std::string jpeg_ls_version();

}  // namespace dpdt
