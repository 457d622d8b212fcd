#include "recipe.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "normalise.hpp"
#include "resample_area.hpp"
#include "resample_spline.hpp"

namespace dpdt {

Resampling resampling_of(const std::string& name) {
    if (name == "area") return Resampling::area;
    if (name == "paper") return Resampling::paper;
    throw std::invalid_argument("recipe: expected area or paper, got " + name);
}

DecodeOptions Recipe::decode_options(std::size_t max_pixels) const {
    const bool reducible = resampling == Resampling::area && !exact_decode;
    return {max_pixels, reducible ? 2 * height : 0, reducible ? 2 * width : 0};
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

// Sides of the largest picture of the same shape that fits, at least one pixel each.
std::pair<std::size_t, std::size_t> fitting_size(const Grid& rows, const Grid& columns, const Recipe& recipe) {
    const auto height = static_cast<std::uint64_t>(rows.length);
    const auto width = static_cast<std::uint64_t>(columns.length);
    const auto scaled = [](std::uint64_t side, std::uint64_t target, std::uint64_t source) {
        return static_cast<std::size_t>(std::max<std::uint64_t>(1, (2 * side * target + source) / (2 * source)));
    };
    if (height * recipe.width >= width * recipe.height) return {recipe.height, scaled(width, recipe.height, height)};
    return {scaled(height, recipe.width, width), recipe.width};
}

template <class T>
void apply_padded(View<T> source, const Recipe& recipe, bool invert, std::uint8_t* out) {
    Recipe inner = recipe;
    inner.pad = false;
    std::tie(inner.height, inner.width) = fitting_size(source.rows, source.columns, recipe);
    Samples<std::uint8_t> pixels(inner.height * inner.width);
    apply_recipe(source, inner, invert, pixels.data());
    std::fill(out, out + recipe.height * recipe.width, std::uint8_t{0});
    const std::size_t top = (recipe.height - inner.height) / 2;
    const std::size_t left = (recipe.width - inner.width) / 2;
    for (std::size_t y = 0; y < inner.height; ++y) {
        const std::uint8_t* const row = pixels.data() + y * inner.width;
        std::copy(row, row + inner.width, out + (top + y) * recipe.width + left);
    }
}

}  // namespace

template <class T>
void apply_recipe(View<T> source, const Recipe& recipe, bool invert, std::uint8_t* out) {
    if (recipe.pad) return apply_padded(source, recipe, invert, out);
    Samples<T> resampled(recipe.height * recipe.width);
    resample(source, recipe.resampling, resampled.data(), recipe.height, recipe.width);
    stretch(View<T>{resampled.data(), recipe.height, recipe.width}, out, invert, recipe.equalise);
}

template void resample(View<std::uint8_t>, Resampling, std::uint8_t*, std::size_t, std::size_t);
template void resample(View<std::uint16_t>, Resampling, std::uint16_t*, std::size_t, std::size_t);
template void apply_recipe(View<std::uint8_t>, const Recipe&, bool, std::uint8_t*);
template void apply_recipe(View<std::uint16_t>, const Recipe&, bool, std::uint8_t*);

}  // namespace dpdt
