// From a picture at its own depth to 8 bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image.hpp"

namespace dpdt {

// Stretches the smallest value to 0 and the largest to 255, rounding half up; with `invert`, to 255 and 0. With
// `equalise`, the 8-bit result goes through the function of that name.
// Throws ImageError (constant) if all pixels are equal: there is nothing to see, and any grey would be invented.
template <class T>
void stretch(View<T> source, std::uint8_t* out, bool invert, bool equalise);

extern template void stretch(View<std::uint8_t>, std::uint8_t*, bool, bool);
extern template void stretch(View<std::uint16_t>, std::uint8_t*, bool, bool);

// Histogram equalisation in place, bit for bit that of cv2.equalizeHist.
void equalise(std::uint8_t* pixels, std::size_t count);

}  // namespace dpdt
