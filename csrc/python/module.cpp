// The compiled half of fastconv. Each init function lives beside what it binds.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void init_onnx(py::module_& m);
namespace fastconv {
void init_ops(py::module_& m);
void init_select(py::module_& m);
void init_file(py::module_& m);
void init_round_trip(py::module_& m);
}  // namespace fastconv
void init_pack(py::module_& m);
void init_plan(py::module_& m);

PYBIND11_MODULE(_core, m) {
  m.doc() = "fastconv's kernels, plans and ONNX scanner. Private: the package's Python modules are the interface.";
  m.attr("__version__") = FASTCONV_VERSION;
  init_onnx(m);
  fastconv::init_ops(m);
  init_pack(m);
  init_plan(m);
  fastconv::init_select(m);
  fastconv::init_file(m);
  fastconv::init_round_trip(m);
}
