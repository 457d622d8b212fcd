// The recipes: from a decoded picture to the pixels of a shard.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "codec.hpp"

namespace dpdt {

enum class Resampling { area, paper };

struct Recipe {
    Resampling resampling = Resampling::area;
    bool equalise = false;
    std::size_t height = 0;
    std::size_t width = 0;
    bool pad = false;  // keep the picture's shape, centred, with 0 around it; otherwise it is stretched
};

// Throws std::invalid_argument for other names than `area` and `paper`.
Resampling resampling_of(const std::string& name);

// Resamples at native depth. out has height * width values.
template <class T>
void resample(View<T> source, Resampling resampling, T* out, std::size_t height, std::size_t width);

// Resample (to the largest size that fits, with `pad`), stretch to 0..255, invert if the picture shows high values dark
// (MONOCHROME1), equalise if wanted. out has height * width bytes. False, and out unspecified, if the picture was
// decoded at too small a scale for it (reduced.hpp). Throws ImageError (constant).
template <class T>
bool apply_recipe(View<T> source, const Recipe& recipe, bool invert, std::uint8_t* out);

extern template void resample(View<std::uint8_t>, Resampling, std::uint8_t*, std::size_t, std::size_t);
extern template void resample(View<std::uint16_t>, Resampling, std::uint16_t*, std::size_t, std::size_t);
extern template bool apply_recipe(View<std::uint8_t>, const Recipe&, bool, std::uint8_t*);
extern template bool apply_recipe(View<std::uint16_t>, const Recipe&, bool, std::uint8_t*);

}  // namespace dpdt
