// libFuzzer targets (`make fuzz`), one a codec path: built once for each DPDT_FUZZ_TARGET. Whatever the bytes, the end
// is a picture or an ImageError; the sanitizers watch the way there.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "codec.hpp"
#include "frame.hpp"
#include "png_filter.hpp"
#include "recipe.hpp"

namespace {

constexpr std::size_t max_pixels = std::size_t{1} << 16;  // small, so that many inputs are tried

void require(bool good) {
    if (!good) std::abort();
}

// A picture goes on through the recipes, as in production.
void use(const dpdt::Image& image, const dpdt::Recipe& recipe) {
    require(image.height > 0 && image.width > 0 && image.file_height * image.file_width <= max_pixels);
    std::vector<std::uint8_t> out(recipe.height * recipe.width);
    std::visit(
        [&](const auto& pixels) {
            using T = typename std::decay_t<decltype(pixels)>::value_type;
            require(pixels.size() == image.height * image.width);
            (void)dpdt::apply_recipe(image.view<T>(), recipe, false, out.data());
        },
        image.pixels);
}

// The last byte picks the recipe, so that files stay files.
dpdt::Recipe recipe_for(std::uint8_t choice) {
    const auto how = (choice & 1) != 0 ? dpdt::Resampling::paper : dpdt::Resampling::area;
    const std::size_t side = (choice & 2) != 0 ? 7U : 24U;
    return {how, true, side, side, (choice & 4) != 0};
}

[[maybe_unused]] void fuzz_file(const std::uint8_t* data, std::size_t size) {
    const dpdt::Recipe recipe = recipe_for(data[size - 1]);
    use(dpdt::decode(data, size, max_pixels), recipe);
}

// Four bytes of layout, then the frame.
[[maybe_unused]] void fuzz_frame(const char* codec, const std::uint8_t* data, std::size_t size) {
    if (size < 5) return;
    dpdt::FrameLayout layout;
    layout.codec = dpdt::frame_codec_of(codec);
    layout.rows = data[0];
    layout.columns = data[1];
    layout.bits_allocated = (data[2] & 1) != 0 ? 8 : 16;
    layout.is_signed = (data[2] & 2) != 0;
    layout.big_endian = (data[2] & 4) != 0;
    layout.bits_stored = 1 + data[3] % layout.bits_allocated;
    layout.high_bit = (data[2] & 8) != 0 ? layout.bits_allocated - 1 : layout.bits_stored - 1;
    const dpdt::Recipe recipe = recipe_for(data[2] >> 4);
    const bool whole = recipe.resampling == dpdt::Resampling::paper || (data[2] & 128) != 0;
    const dpdt::DecodeOptions options{max_pixels, whole ? 0 : 2 * recipe.height, whole ? 0 : 2 * recipe.width};
    use(dpdt::decode_frame(data + 4, size - 4, layout, options), recipe);
}

// Filters: the lanes must give what the plain loops give.
[[maybe_unused]] void fuzz_filters(const std::uint8_t* data, std::size_t size) {
    const std::size_t pixel_bytes = 1 + data[0] % 2;
    const std::size_t row_bytes = pixel_bytes * (1 + data[0] / 2);
    std::vector<std::uint8_t> raw(data + 1, data + size);
    const std::size_t height = raw.size() / (row_bytes + 1);
    for (std::size_t y = 0; y < height; ++y) raw[y * (row_bytes + 1)] %= 5;
    const dpdt::FilteredRows rows{raw.data(), height, row_bytes, pixel_bytes};
    std::vector<std::uint8_t> plain(height * row_bytes);
    dpdt::undo_filters(rows, plain.data());
    dpdt::undo_gray_filters(rows, raw.data());
    for (std::size_t i = 0; i < plain.size(); ++i) require(raw[i] == plain[pixel_bytes == 2 ? i ^ 1 : i]);
}

void fuzz(const std::uint8_t* data, std::size_t size) {
#if defined(DPDT_FUZZ_FILE)
    fuzz_file(data, size);
#elif defined(DPDT_FUZZ_FILTERS)
    fuzz_filters(data, size);
#else
    fuzz_frame(DPDT_FUZZ_CODEC, data, size);
#endif
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    try {
        fuzz(data, size);
    } catch (const dpdt::ImageError& error) {
        require(error.reason() != dpdt::Reason::none && error.what()[0] != '\0');
    }
    return 0;
}
