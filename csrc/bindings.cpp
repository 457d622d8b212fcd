// The extension module dpdt._core: the only file that knows Python.
#include <pybind11/pybind11.h>

#include "threads.hpp"

PYBIND11_MODULE(_core, module) {
    module.doc() = "Decoding, resampling and normalising of radiographs, many at once.";
    module.def("available_threads", &dpdt::available_threads,
               "Cores given to this process by its affinity mask and cgroup.");
}
