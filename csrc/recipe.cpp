#include "recipe.hpp"

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

template <class T>
void apply_recipe(View<T> source, const Recipe& recipe, bool invert, std::uint8_t* out) {
    Samples<T> resampled(recipe.height * recipe.width);
    resample(source, recipe.resampling, resampled.data(), recipe.height, recipe.width);
    stretch(View<T>{resampled.data(), recipe.height, recipe.width}, out, invert, recipe.equalise);
}

template void resample(View<std::uint8_t>, Resampling, std::uint8_t*, std::size_t, std::size_t);
template void resample(View<std::uint16_t>, Resampling, std::uint16_t*, std::size_t, std::size_t);
template void apply_recipe(View<std::uint8_t>, const Recipe&, bool, std::uint8_t*);
template void apply_recipe(View<std::uint16_t>, const Recipe&, bool, std::uint8_t*);

}  // namespace dpdt
