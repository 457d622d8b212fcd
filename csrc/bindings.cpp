// The extension module dpdt._core: the only file that knows Python. Its types are repeated in dpdt/_core.pyi.
// Without DPDT_CODECS it has nothing that reads pictures: enough to train on shards.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>

#include "gather.hpp"
#include "memory.hpp"
#include "noise.hpp"
#include "norms.hpp"
#include "threads.hpp"
#include "views.hpp"
#ifdef DPDT_CODECS
#include "codec_jpeg.hpp"
#include "codec_png.hpp"
#include "codec_tiff.hpp"
#include "file.hpp"
#include "frame.hpp"
#include "normalise.hpp"
#include "pipeline.hpp"
#include "recipe.hpp"
#endif

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

#ifdef DPDT_CODECS
[[noreturn]] void raise_decode_error(const dpdt::ImageError& error) {
    const py::object type = py::module_::import("dpdt.errors").attr("DecodeError");
    const std::string text = std::string(dpdt::reason_name(error.reason())) + ": " + error.what();
    PyErr_SetString(type.ptr(), text.c_str());
    throw py::error_already_set();
}

// Runs `work` without the GIL and turns a bad picture into dpdt.errors.DecodeError.
template <class Work>
auto without_gil(const Work& work) {
    try {
        const py::gil_scoped_release release;
        return work();
    } catch (const dpdt::ImageError& error) {
        raise_decode_error(error);
    }
}

template <class T>
dpdt::View<T> view_of(const Array<T>& pixels) {
    if (pixels.ndim() != 2 || pixels.size() == 0) {
        throw py::value_error("pixels: expected a two-dimensional array with at least one pixel");
    }
    const auto height = static_cast<std::size_t>(pixels.shape(0));
    const auto width = static_cast<std::size_t>(pixels.shape(1));
    dpdt::check_size(height, width, height * width);
    return {pixels.data(), height, width};
}

// The output's memory, after a look at its shape. Nothing is converted: a copy would be filled and thrown away.
std::uint8_t* output_of(Array<std::uint8_t>& out, py::ssize_t ndim) {
    if (out.ndim() != ndim || out.shape(ndim - 1) < 1 || out.shape(ndim - 2) < 1) {
        throw py::value_error("out: expected " + std::to_string(ndim) + " dimensions, height and width at least 1");
    }
    return out.mutable_data();
}

dpdt::Recipe recipe_of(const std::string& name, bool equalise, const std::string& aspect,
                       const Array<std::uint8_t>& out) {
    if (aspect != "stretch" && aspect != "pad") {
        throw std::invalid_argument("aspect: expected stretch or pad, got " + aspect);
    }
    const auto height = static_cast<std::size_t>(out.shape(out.ndim() - 2));
    const auto width = static_cast<std::size_t>(out.shape(out.ndim() - 1));
    return {dpdt::resampling_of(name), equalise, height, width, aspect == "pad"};
}

// A pixel array that takes over the vector's memory.
template <class T>
py::array to_array(dpdt::Samples<T>&& pixels, std::size_t height, std::size_t width) {
    auto owned = std::make_unique<dpdt::Samples<T>>(std::move(pixels));
    T* const data = owned->data();
    const py::capsule owner(owned.release(), [](void* pointer) { delete static_cast<dpdt::Samples<T>*>(pointer); });
    return py::array_t<T>({height, width}, data, owner);
}

py::tuple decode(const py::bytes& data, std::size_t max_pixels) {
    const std::string_view bytes = data;
    dpdt::Image image = without_gil(
        [&] { return dpdt::decode(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), max_pixels); });
    const py::array pixels =
        std::visit([&](auto& values) -> py::array { return to_array(std::move(values), image.height, image.width); },
                   image.pixels);
    return py::make_tuple(pixels, image.bits, image.warnings);
}

using GridTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t>;
using Grids = std::tuple<GridTuple, GridTuple, unsigned>;  // rows, columns, halvings

GridTuple tuple_of(const dpdt::Grid& grid) { return {grid.origin, grid.pixel, grid.length}; }

dpdt::Grid grid_of(const GridTuple& tuple) {
    const auto [origin, pixel, length] = tuple;
    constexpr std::int64_t longest = 65535 * 8;
    const bool good = pixel > 0 && pixel < longest && length > 0 && length <= longest && origin <= 0 && origin > -pixel;
    if (!good) throw py::value_error("grid: expected what decode_frame gave");
    return {origin, pixel, length};
}

// The pixels of a frame in the type of its values.
py::array frame_pixels(dpdt::Image& image, bool is_signed) {
    py::array pixels =
        std::visit([&](auto& values) -> py::array { return to_array(std::move(values), image.height, image.width); },
                   image.pixels);
    if (is_signed) pixels = pixels.attr("view")(pixels.itemsize() == 1 ? "int8" : "int16");
    return pixels;
}

py::tuple decode_frame(const py::buffer& data, const std::string& codec, std::size_t rows, std::size_t columns,
                       int bits_allocated, int bits_stored, int high_bit, bool is_signed, bool big_endian,
                       std::size_t max_pixels, std::size_t min_side, unsigned max_halvings) {
    const py::buffer_info info = data.request();
    const auto size = static_cast<std::size_t>(info.size * info.itemsize);
    const auto* const bytes = static_cast<const std::uint8_t*>(info.ptr);
    const dpdt::FrameLayout layout{
        dpdt::frame_codec_of(codec), rows, columns, bits_allocated, bits_stored, high_bit, is_signed, big_endian};
    const dpdt::DecodeOptions options{max_pixels, min_side, min_side, max_halvings};
    dpdt::Image image = without_gil([&] { return dpdt::decode_frame(bytes, size, layout, options); });
    const Grids grids{tuple_of(image.rows), tuple_of(image.columns), image.halvings};
    return py::make_tuple(frame_pixels(image, is_signed), grids, image.warnings);
}

template <class T>
py::array resample(const Array<T>& pixels, std::size_t height, std::size_t width, const std::string& recipe) {
    const dpdt::View<T> source = view_of(pixels);
    const dpdt::Resampling resampling = dpdt::resampling_of(recipe);
    if (height < 1 || width < 1 || height > 32767 || width > 32767) {
        throw py::value_error("height and width: expected numbers in 1..32767");
    }
    dpdt::Samples<T> out(height * width);
    without_gil([&] { dpdt::resample(source, resampling, out.data(), height, width); });
    return to_array(std::move(out), height, width);
}

template <class T>
bool process_array(const Array<T>& pixels, Array<std::uint8_t> out, const std::string& recipe, bool equalise,
                   bool invert, const std::string& aspect, double pixel_aspect, const std::optional<Grids>& grid) {
    dpdt::View<T> source = view_of(pixels);
    if (!(pixel_aspect >= 1e-3 && pixel_aspect <= 1e3)) throw py::value_error("pixel_aspect: expected 0.001 to 1000");
    source.pixel_aspect = pixel_aspect;
    if (grid) {
        source.rows = grid_of(std::get<0>(*grid));
        source.columns = grid_of(std::get<1>(*grid));
        source.halvings = std::get<2>(*grid);
    }
    std::uint8_t* const target = output_of(out, 2);
    const dpdt::Recipe settings = recipe_of(recipe, equalise, aspect, out);
    return without_gil([&] { return dpdt::apply_recipe(source, settings, invert, target); });
}

std::string path_of(const py::handle& path) {
    PyObject* encoded = nullptr;
    if (PyUnicode_FSConverter(path.ptr(), &encoded) == 0) throw py::error_already_set();
    return py::reinterpret_steal<py::bytes>(encoded);
}

std::vector<dpdt::ImageResult> process_files(const py::sequence& paths, Array<std::uint8_t> out,
                                             const std::string& recipe, bool equalise, std::size_t num_threads,
                                             const std::string& aspect, std::size_t max_pixels,
                                             const py::object& progress) {
    std::vector<std::string> names;
    names.reserve(paths.size());
    for (const py::handle path : paths) names.push_back(path_of(path));
    std::uint8_t* const target = output_of(out, 3);
    if (static_cast<std::size_t>(out.shape(0)) != names.size()) {
        throw py::value_error("out: expected one picture for each of the " + std::to_string(names.size()) +
                              " paths, got room for " + std::to_string(out.shape(0)));
    }
    dpdt::Pipeline pipeline;
    pipeline.recipe = recipe_of(recipe, equalise, aspect, out);
    pipeline.max_pixels = max_pixels;
    pipeline.num_threads = num_threads;

    std::size_t reported = 0;
    const auto poll = [&](std::size_t done) {  // runs on the calling thread
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (!progress.is_none() && done > reported) progress(done - reported);
        reported = done;
    };
    const py::gil_scoped_release release;
    return pipeline.process_all(names, target, poll);
}

py::dict codecs() {
    py::dict versions;
    versions["jpeg"] = dpdt::jpeg_version();
    versions["png"] = dpdt::png_version();
    versions["inflate"] = dpdt::inflate_version();
    versions["tiff"] = dpdt::tiff_version();
    for (const auto& [name, version] : dpdt::frame_codec_versions()) versions[name.c_str()] = version;
    return versions;
}

#endif

template <std::size_t words>
std::array<std::uint32_t, words> words_of(const py::bytes& data, const char* name) {
    const std::string_view bytes = data;
    if (bytes.size() != 4 * words) {
        throw py::value_error(std::string(name) + ": expected " + std::to_string(4 * words) + " bytes, got " +
                              std::to_string(bytes.size()));
    }
    std::array<std::uint32_t, words> found{};
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        found[i / 4] |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * (i % 4));
    }
    return found;
}

// Numbers of one draw: as many as one nonce has keystream for.
template <class T>
std::size_t noise_count(const Array<T>& out) {
    if (out.ndim() != 1 || static_cast<std::uint64_t>(out.size()) > (std::uint64_t{1} << 32)) {
        throw py::value_error("expected one dimension of at most 2^32 numbers");
    }
    return static_cast<std::size_t>(out.size());
}

void fill_normal(const py::bytes& key, const py::bytes& nonce, Array<double> out, std::size_t num_threads,
                 const std::string& vectors) {
    const auto key_words = words_of<8>(key, "key");
    const auto nonce_words = words_of<3>(nonce, "nonce");
    const std::size_t count = noise_count(out);
    double* const data = out.mutable_data();
    const py::gil_scoped_release release;
    dpdt::fill_normal(key_words, nonce_words, data, count, num_threads, vectors);
}

void add_normal(const py::bytes& key, const py::bytes& nonce, Array<float> values, double scale, double divisor,
                std::size_t num_threads) {
    const auto key_words = words_of<8>(key, "key");
    const auto nonce_words = words_of<3>(nonce, "nonce");
    const std::size_t count = noise_count(values);
    float* const data = values.mutable_data();
    const py::gil_scoped_release release;
    dpdt::add_normal(key_words, nonce_words, data, count, scale, divisor, num_threads);
}

void add_squared_norms(const Array<float>& rows, Array<double> out, std::size_t num_threads) {
    if (rows.ndim() != 2 || out.ndim() != 1 || rows.shape(0) != out.shape(0)) {
        throw py::value_error("expected rows and room for one number for each");
    }
    const auto length = static_cast<std::size_t>(rows.shape(1));
    const auto count = static_cast<std::size_t>(rows.shape(0));
    double* const numbers = out.mutable_data();
    const py::gil_scoped_release release;
    dpdt::add_squared_norms(rows.data(), count, length, numbers, num_threads);
}

using Pair = std::pair<std::size_t, std::size_t>;

dpdt::KernelAxis axis_of(py::ssize_t input, py::ssize_t output, std::size_t kernel, std::size_t stride,
                         std::size_t padding, std::size_t dilation) {
    const bool good = stride > 0 && dilation > 0 && kernel > 0;
    const auto length = static_cast<std::size_t>(input) + 2 * padding;
    const std::size_t reach = dilation * (kernel - 1) + 1;
    if (!good || length < reach || static_cast<std::size_t>(output) != (length - reach) / stride + 1) {
        throw py::value_error("x, gy: expected input and output gradient of this convolution");
    }
    return {static_cast<std::size_t>(input), static_cast<std::size_t>(output), kernel, stride, padding, dilation};
}

void weight_squared_norms(const Array<float>& x, const Array<float>& gy, Array<double> out, Pair kernel, Pair stride,
                          Pair padding, Pair dilation, std::size_t groups, double rounding, std::size_t num_threads) {
    if (x.ndim() != 4 || gy.ndim() != 4 || out.ndim() != 1 || x.shape(0) != gy.shape(0) || x.shape(0) != out.shape(0) ||
        groups == 0 || static_cast<std::size_t>(x.shape(1)) % groups != 0 ||
        static_cast<std::size_t>(gy.shape(1)) % groups != 0) {
        throw py::value_error("x, gy, out: expected the same images, and channels in whole groups");
    }
    const dpdt::ConvolutionShape shape{
        static_cast<std::size_t>(x.shape(0)),
        groups,
        static_cast<std::size_t>(x.shape(1)) / groups,
        static_cast<std::size_t>(gy.shape(1)) / groups,
        axis_of(x.shape(2), gy.shape(2), kernel.first, stride.first, padding.first, dilation.first),
        axis_of(x.shape(3), gy.shape(3), kernel.second, stride.second, padding.second, dilation.second)};
    double* const norms = out.mutable_data();
    const py::gil_scoped_release release;
    dpdt::weight_squared_norms(shape, x.data(), gy.data(), rounding, norms, num_threads);
}

std::optional<std::size_t> gather(const std::vector<Array<std::uint8_t>>& files, const Array<std::int64_t>& file,
                                  const Array<std::int64_t>& row, Array<std::uint8_t> out, std::size_t num_threads) {
    if (file.ndim() != 1 || row.ndim() != 1 || file.size() != row.size() || out.ndim() != 3 ||
        out.shape(0) != file.size()) {
        throw py::value_error("expected one file, one row and room for one picture for each place");
    }
    std::vector<dpdt::PictureFile> sources;
    for (const Array<std::uint8_t>& pictures : files) {
        if (pictures.ndim() != 3 || pictures.shape(1) != out.shape(1) || pictures.shape(2) != out.shape(2)) {
            throw py::value_error("files: expected pictures of the size of out's");
        }
        sources.push_back({pictures.data(), static_cast<std::size_t>(pictures.shape(0))});
    }
    std::vector<dpdt::PicturePlace> places;
    for (py::ssize_t i = 0; i < file.size(); ++i) {
        const auto number = static_cast<std::size_t>(file.at(i));  // a negative one becomes too large
        const auto place = static_cast<std::size_t>(row.at(i));
        if (number >= sources.size() || place >= sources[number].rows) throw py::index_error("no such picture");
        places.push_back({number, place});
    }
    const auto bytes = static_cast<std::size_t>(out.shape(1) * out.shape(2));
    std::uint8_t* const target = out.mutable_data();
    const py::gil_scoped_release release;
    return dpdt::gather(sources, places, bytes, target, num_threads);
}

py::tuple change_of(std::uint64_t seed) {
    const dpdt::Change view = dpdt::change_of(seed);
    return py::make_tuple(view.angle, view.scale, view.shift_x, view.shift_y, view.contrast, view.brightness,
                          view.noise);
}

void make_views(Array<std::uint8_t> pictures, const Array<std::uint64_t>& seeds, std::size_t num_threads) {
    if (pictures.ndim() != 3 || pictures.shape(1) != pictures.shape(2) || pictures.shape(1) < 1 || seeds.ndim() != 1 ||
        pictures.shape(0) != seeds.size()) {
        throw py::value_error("expected square pictures and one seed for each");
    }
    const auto count = static_cast<std::size_t>(pictures.shape(0));
    const auto size = static_cast<std::size_t>(pictures.shape(1));
    std::uint8_t* const data = pictures.mutable_data();
    const std::uint64_t* const numbers = seeds.data();
    const py::gil_scoped_release release;
    dpdt::make_views(data, numbers, count, size, num_threads);
}

#ifdef DPDT_CODECS
template <class T>
void define_pixel_functions(py::module_& module) {
    module.def("resample", &resample<T>, py::arg("pixels").noconvert(), py::kw_only(), py::arg("height"),
               py::arg("width"), py::arg("recipe") = "area");
    module.def("process_array", &process_array<T>, py::arg("pixels").noconvert(), py::arg("out").noconvert(),
               py::kw_only(), py::arg("recipe"), py::arg("equalise"), py::arg("invert") = false,
               py::arg("aspect") = "stretch", py::arg("pixel_aspect") = 1.0, py::arg("grid") = py::none());
}

#endif

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "Decoding, resampling and normalising of radiographs, many at once.";
    module.attr("__version__") = DPDT_VERSION;
    module.def("available_threads", &dpdt::available_threads);
    module.def("keep_memory", &dpdt::keep_memory);
    module.def("fill_normal", &fill_normal, py::arg("key"), py::arg("nonce"), py::arg("out").noconvert(), py::kw_only(),
               py::arg("num_threads") = 1, py::arg("vectors") = "");
    module.def("noise_vectors", &dpdt::noise_vectors);
    module.def("add_normal", &add_normal, py::arg("key"), py::arg("nonce"), py::arg("values").noconvert(),
               py::kw_only(), py::arg("scale"), py::arg("divisor"), py::arg("num_threads") = 1);
    module.def("add_squared_norms", &add_squared_norms, py::arg("rows").noconvert(), py::arg("out").noconvert(),
               py::kw_only(), py::arg("num_threads") = 1);
    module.def("weight_squared_norms", &weight_squared_norms, py::arg("x").noconvert(), py::arg("gy").noconvert(),
               py::arg("out").noconvert(), py::kw_only(), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
               py::arg("dilation"), py::arg("groups"), py::arg("rounding"), py::arg("num_threads") = 1);
    module.def("gather", &gather, py::arg("files"), py::arg("file"), py::arg("row"), py::arg("out").noconvert(),
               py::kw_only(), py::arg("num_threads") = 1);
    module.def("view_of", &change_of, py::arg("seed"));
    module.def("make_views", &make_views, py::arg("pictures").noconvert(), py::arg("seeds").noconvert(), py::kw_only(),
               py::arg("num_threads") = 1);
#ifdef DPDT_CODECS
    module.attr("MAX_PIXELS") = dpdt::DecodeOptions{}.max_pixels;

    py::class_<dpdt::ImageResult>(module, "ImageResult")
        .def_property_readonly("ok", [](const dpdt::ImageResult& r) { return r.reason == dpdt::Reason::none; })
        .def_property_readonly("reason", [](const dpdt::ImageResult& r) { return dpdt::reason_name(r.reason); })
        .def_property_readonly("format", [](const dpdt::ImageResult& r) { return dpdt::format_name(r.format); })
        .def_readonly("message", &dpdt::ImageResult::message)
        .def_readonly("height", &dpdt::ImageResult::height)
        .def_readonly("width", &dpdt::ImageResult::width)
        .def_readonly("bits", &dpdt::ImageResult::bits)
        .def_readonly("warnings", &dpdt::ImageResult::warnings);
    module.def("codecs", &codecs);
    module.def("decode", &decode, py::arg("data"), py::kw_only(),
               py::arg("max_pixels") = dpdt::DecodeOptions{}.max_pixels);
    module.def("decode_frame", &decode_frame, py::arg("data"), py::kw_only(), py::arg("codec"), py::arg("rows"),
               py::arg("columns"), py::arg("bits_allocated"), py::arg("bits_stored"), py::arg("high_bit"),
               py::arg("is_signed"), py::arg("big_endian") = false,
               py::arg("max_pixels") = dpdt::DecodeOptions{}.max_pixels, py::arg("min_side") = 0,
               py::arg("max_halvings") = dpdt::DecodeOptions{}.max_halvings);
    define_pixel_functions<std::uint8_t>(module);
    define_pixel_functions<std::uint16_t>(module);
    module.def(
        "equalise",
        [](Array<std::uint8_t> pixels) {
            std::uint8_t* const data = output_of(pixels, 2);
            const auto count = static_cast<std::size_t>(pixels.size());
            without_gil([&] { dpdt::equalise(data, count); });
        },
        py::arg("pixels").noconvert());
    module.def("reason_of", [](int code) { return dpdt::reason_name(dpdt::reason_of(code)); }, py::arg("code"));
    module.def("process_files", &process_files, py::arg("paths"), py::arg("out").noconvert(), py::kw_only(),
               py::arg("recipe"), py::arg("equalise"), py::arg("num_threads") = 0, py::arg("aspect") = "stretch",
               py::arg("max_pixels") = dpdt::DecodeOptions{}.max_pixels, py::arg("progress") = py::none());
#endif
}
