// Anti-aliased resampling in exact integer arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "image.hpp"

namespace dpdt {

// Along an axis that shrinks, an output pixel is the mean of the source pixels below it, the partly covered ones
// weighted by their covered part (cv2.INTER_AREA). Along an axis that grows it is linear between the two nearest pixel
// centres (cv2.INTER_LINEAR). The weights are fractions with one denominator, so sums are exact and the result is
// rounded once, half up; it depends on no order of summation.
//
// REQUIRES: source sides in 1..65535, target sides in 1..32767; the length of a grid times the largest value of T is
// below 2^32. out has out_height * out_width values.
template <class T>
void resample_area(View<T> source, T* out, std::size_t out_height, std::size_t out_width);

extern template void resample_area(View<std::uint8_t>, std::uint8_t*, std::size_t, std::size_t);
extern template void resample_area(View<std::uint16_t>, std::uint16_t*, std::size_t, std::size_t);

}  // namespace dpdt
