// Resampling by a quadratic spline, as scipy.ndimage.zoom does it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image.hpp"

namespace dpdt {

// scipy.ndimage.zoom(source, (out_height / height, out_width / width), order=2) with its defaults: the corners' centres
// are kept (grid_mode=False), the prefilter mirrors at the edges, and the result is rounded and clipped to T. It does
// not smooth before shrinking: that is the paper's recipe, aliasing included.
// Source: Unser, Aldroubi, Eden, "B-spline signal processing", IEEE Trans. Signal Processing 41 (1993); pole sqrt(8)-3.
//
// REQUIRES: all sides at least 1. out has out_height * out_width values.
template <class T>
void resample_spline(View<T> source, T* out, std::size_t out_height, std::size_t out_width);

extern template void resample_spline(View<std::uint8_t>, std::uint8_t*, std::size_t, std::size_t);
extern template void resample_spline(View<std::uint16_t>, std::uint16_t*, std::size_t, std::size_t);

}  // namespace dpdt
