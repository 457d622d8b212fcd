#include "recipe.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "normalise.hpp"
#include "reduced.hpp"
#include "resample_area.hpp"
#include "resample_spline.hpp"

namespace dpdt {

Resampling resampling_of(const std::string& name) {
    if (name == "area") return Resampling::area;
    if (name == "paper") return Resampling::paper;
    throw std::invalid_argument("recipe: expected area or paper, got " + name);
}

template <class T>
void resample(View<T> source, Resampling resampling, T* out, std::size_t height, std::size_t width) {
    switch (resampling) {
        case Resampling::area:
            return resample_area(source, out, height, width);
        case Resampling::paper:
            return resample_spline(source, out, height, width);
    }
}

namespace {

// Sides of the largest picture of the same shape that fits, at least one pixel each. Those of square pixels are whole
// numbers, and exact in double precision.
std::pair<std::size_t, std::size_t> fitting_size(const Grid& rows, const Grid& columns, double pixel_aspect,
                                                 const Recipe& recipe) {
    const double height = static_cast<double>(rows.length) * pixel_aspect;
    const auto width = static_cast<double>(columns.length);
    const auto target_height = static_cast<double>(recipe.height);
    const auto target_width = static_cast<double>(recipe.width);
    const auto scaled = [](double side, double target, double source) {
        return static_cast<std::size_t>(std::max(1.0, std::floor((2 * side * target + source) / (2 * source))));
    };
    if (height * target_width >= width * target_height) return {recipe.height, scaled(width, target_height, height)};
    return {scaled(height, target_width, width), recipe.width};
}

template <class T>
bool apply_padded(View<T> source, const Recipe& recipe, bool invert, std::uint8_t* out) {
    Recipe inner = recipe;
    inner.pad = false;
    std::tie(inner.height, inner.width) = fitting_size(source.rows, source.columns, source.pixel_aspect, recipe);
    Samples<std::uint8_t> pixels(inner.height * inner.width);
    if (!apply_recipe(source, inner, invert, pixels.data())) return false;
    std::fill(out, out + recipe.height * recipe.width, std::uint8_t{0});
    const std::size_t top = (recipe.height - inner.height) / 2;
    const std::size_t left = (recipe.width - inner.width) / 2;
    for (std::size_t y = 0; y < inner.height; ++y) {
        const std::uint8_t* const row = pixels.data() + y * inner.width;
        std::copy(row, row + inner.width, out + (top + y) * recipe.width + left);
    }
    return true;
}

}  // namespace

template <class T>
bool apply_recipe(View<T> source, const Recipe& recipe, bool invert, std::uint8_t* out) {
    if (recipe.pad) return apply_padded(source, recipe, invert, out);
    if (!is_faithful(source, recipe.height, recipe.width)) return false;
    Samples<T> resampled(recipe.height * recipe.width);
    resample(source, recipe.resampling, resampled.data(), recipe.height, recipe.width);
    stretch(View<T>{resampled.data(), recipe.height, recipe.width}, out, invert, recipe.equalise);
    return true;
}

template void resample(View<std::uint8_t>, Resampling, std::uint8_t*, std::size_t, std::size_t);
template void resample(View<std::uint16_t>, Resampling, std::uint16_t*, std::size_t, std::size_t);
template bool apply_recipe(View<std::uint8_t>, const Recipe&, bool, std::uint8_t*);
template bool apply_recipe(View<std::uint16_t>, const Recipe&, bool, std::uint8_t*);

}  // namespace dpdt
