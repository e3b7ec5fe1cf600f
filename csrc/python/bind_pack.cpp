// Packed weights for Python: room for them, and what fills it, whole or part by part and from several threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <string.h>

#include <algorithm>
#include <optional>

#include "cpu/dispatch.h"
#include "cpu/select.h"
#include "cpu/winograd.h"
#include "gil.h"
#include "packed_weight.h"

namespace py = pybind11;

namespace fastconv {

namespace {

using Array = py::array_t<float, py::array::c_style>;

const float* scale_of(const std::optional<Array>& scale, int64_t K) {
  if (!scale) return nullptr;
  if (scale->size() != K) throw std::invalid_argument("scale must have one entry per output channel");
  return scale->data();
}

// A weight of n floats that fill(out) packs at once.
template <class Fill>
PackedWeight filled(const std::shared_ptr<WeightStore>& store, int64_t n, const Fill& fill) {
  ReleaseGil release;
  float* out = store->allocate(n);
  store->touch(out, n);
  fill(out);
  return {store, out, n};
}

// The start of a packed weight, of which `floats` from the first-th on are filled in now.
float* part_of(const PackedWeight& packed, int64_t first, int64_t floats) {
  packed.store->touch(packed.address + first, floats);
  return const_cast<float*>(packed.address);
}

PackedWeight put(const std::shared_ptr<WeightStore>& store, const Array& array) {
  const float* x = array.data();
  const int64_t n = array.size();
  return filled(store, n, [&](float* out) {
    if (n) memcpy(out, x, sizeof(float) * n);
  });
}

PackedWeight pack_conv(const std::shared_ptr<WeightStore>& store, const Array& w, const std::optional<Array>& scale,
                       int64_t groups, Isa isa) {
  if (w.ndim() != 4 || groups < 1 || w.shape(0) % groups) throw std::invalid_argument("w must be [K, C/groups, R, S]");
  const int64_t K = w.shape(0), C = w.shape(1) * groups, R = w.shape(2), S = w.shape(3);
  const float *x = w.data(), *s = scale_of(scale, K);
  return filled(store, packed_conv2d_size(K, C, R, S, groups, isa),
                [&](float* out) { pack_conv2d(out, x, s, K, C, R, S, groups, isa); });
}

// The axes of an R x S filter. Throws where it has no F(m).
int64_t winograd_form_of(int64_t R, int64_t S, int64_t m) {
  const int64_t axes = winograd_axes(R, S);
  if ((axes == WINOGRAD_BOTH && R != S) || !winograd_known(m, std::max(R, S), axes))
    throw std::invalid_argument("no such form of Winograd's convolution");
  return axes;
}

PackedWeight pack_wino(const std::shared_ptr<WeightStore>& store, const Array& w, const std::optional<Array>& scale,
                       int64_t m, Isa isa) {
  if (w.ndim() != 4) throw std::invalid_argument("w must be [K, C, R, S]");
  const int64_t K = w.shape(0), C = w.shape(1), R = w.shape(2), S = w.shape(3);
  const int64_t r = std::max(R, S), axes = winograd_form_of(R, S, m);
  const float *x = w.data(), *s = scale_of(scale, K);
  return filled(store, packed_winograd_size(K, C, m, r, axes, isa),
                [&](float* out) { pack_winograd(out, x, s, K, C, m, r, axes, isa); });
}

PackedWeight pack_depth(const std::shared_ptr<WeightStore>& store, const Array& w, const std::optional<Array>& scale,
                        Isa isa) {
  if (w.ndim() != 4 || w.shape(1) != 1) throw std::invalid_argument("w must be [K, 1, R, S]");
  const int64_t K = w.shape(0), R = w.shape(2), S = w.shape(3);
  const float *x = w.data(), *s = scale_of(scale, K);
  return filled(store, packed_depthwise_size(K, R, S, isa),
                [&](float* out) { pack_depthwise(out, x, s, K, R, S, isa); });
}

void check_panel(int64_t panel, Isa isa, int64_t least) {
  if (panel < least || panel > INT32_MAX || panel % geometry(isa).vector_length)
    throw std::invalid_argument("a panel must be a positive multiple of the level's vectors, below 2^31");
}

PackedWeight pack_dense(const std::shared_ptr<WeightStore>& store, const Array& w, const std::optional<Array>& scale,
                        bool trans_b, int64_t panel, Isa isa, int64_t taps) {
  if (w.ndim() != 2) throw std::invalid_argument("w must be a matrix");
  const int64_t K = w.shape(trans_b ? 0 : 1), C = w.shape(trans_b ? 1 : 0);
  if (taps < 1 || C % taps) throw std::invalid_argument("taps must divide the rows of w");
  check_panel(panel, isa, 0);
  const float *x = w.data(), *s = scale_of(scale, K);
  return filled(store, packed_linear_size(K, C, isa), [&](float* out) {
    if (trans_b && panel == 0) {
      pack_conv2d(out, x, s, K, C / taps, taps, 1, 1, isa);
    } else if (trans_b) {
      pack_linear_rows(out, x, s, 0, K, K, C, taps, panel, isa);
    } else {
      pack_linear_inputs(out, x, s, 0, C, K, C, taps, panel, isa);
    }
  });
}

// Room for a weight [K, C, R, S] that comes part by part. Sizes are bounded so that products stay far below 2^63.
void check_weight(int64_t K, int64_t C, int64_t R, int64_t S) {
  constexpr int64_t MOST = int64_t(1) << 40;
  if (K < 1 || C < 1 || R < 1 || S < 1 || K > MOST / C || R > MOST / (K * C) || S > MOST / (K * C * R))
    throw std::invalid_argument("no such weight");
}

PackedWeight reserve_conv(const std::shared_ptr<WeightStore>& store, int64_t K, int64_t C, int64_t R, int64_t S,
                          Isa isa) {
  check_weight(K, C, R, S);
  const int64_t n = packed_conv2d_size(K, C, R, S, 1, isa);
  return {store, store->allocate(n), n};
}

PackedWeight reserve_wino(const std::shared_ptr<WeightStore>& store, int64_t K, int64_t C, int64_t m, int64_t r,
                          Isa isa, int64_t axes) {
  check_weight(K, C, r, r);
  if (!winograd_known(m, r, axes)) throw std::invalid_argument("no such form of Winograd's convolution");
  const int64_t n = packed_winograd_size(K, C, m, r, axes, isa);
  return {store, store->allocate(n), n};
}

// Whether w holds whole panels of K outputs, from output `first` on.
void check_panels(const Array& w, int64_t first, int64_t K, Isa isa) {
  bool begins = false, ends = false;
  const int64_t count = w.ndim() == 4 && K > 0 ? panel_count(K, isa) : -1;
  for (int64_t p = 0; p <= count; p++) {
    begins = begins || panel_first(K, p, isa) == first;
    ends = ends || panel_first(K, p, isa) == first + w.shape(0);
  }
  if (!begins || !ends) throw std::invalid_argument("the rows are no whole panels of the weight");
}

std::vector<int64_t> panels(int64_t K, Isa isa) {
  std::vector<int64_t> starts;
  for (int64_t p = 0; p < panel_count(K, isa); p++) starts.push_back(panel_first(K, p, isa));
  return starts;
}

void pack_conv_rows(const PackedWeight& packed, int64_t K, int64_t first, const Array& w,
                    const std::optional<Array>& scale, Isa isa) {
  check_panels(w, first, K, isa);
  const int64_t rows = w.shape(0), C = w.shape(1), R = w.shape(2), S = w.shape(3);
  check_weight(K, C, R, S);
  if (packed.size != packed_conv2d_size(K, C, R, S, 1, isa)) throw std::invalid_argument("packed is of another size");
  const float *x = w.data(), *s = scale_of(scale, rows);
  ReleaseGil release;
  float* out = part_of(packed, first * C * R * S, packed_conv2d_size(rows, C, R, S, 1, isa));
  pack_conv2d_rows(out, x, s, first, rows, K, C, R, S, isa);
}

void pack_wino_rows(const PackedWeight& packed, int64_t K, int64_t first, const Array& w,
                    const std::optional<Array>& scale, int64_t m, Isa isa) {
  check_panels(w, first, K, isa);
  const int64_t rows = w.shape(0), C = w.shape(1), r = std::max(w.shape(2), w.shape(3));
  const int64_t axes = winograd_form_of(w.shape(2), w.shape(3), m);
  check_weight(K, C, r, r);
  if (packed.size != packed_winograd_size(K, C, m, r, axes, isa))
    throw std::invalid_argument("packed is of another size");
  const float *x = w.data(), *s = scale_of(scale, rows);
  ReleaseGil release;
  float* out =
      part_of(packed, packed_winograd_size(first, C, m, r, axes, isa), packed_winograd_size(rows, C, m, r, axes, isa));
  pack_winograd_rows(out, x, s, first, rows, K, C, m, r, axes, isa);
}

// A dense weight part by part.
PackedWeight reserve_dense(const std::shared_ptr<WeightStore>& store, int64_t K, int64_t C, Isa isa) {
  if (K < 0 || C < 0 || (C > 0 && K > (int64_t(1) << 40) / C))
    throw std::invalid_argument("w: more than 2^40 elements");
  const int64_t n = packed_linear_size(K, C, isa);
  return {store, store->allocate(n), n};
}

// From the rows [first, first + rows) of w: [K, C].
void pack_dense_rows(const PackedWeight& packed, int64_t K, int64_t panel, int64_t first, const Array& w,
                     const std::optional<Array>& scale, Isa isa, int64_t taps) {
  if (w.ndim() != 2) throw std::invalid_argument("w must be a matrix");
  const int64_t rows = w.shape(0), C = w.shape(1);
  if (taps < 1 || C % taps) throw std::invalid_argument("taps must divide the rows of w");
  check_panel(panel, isa, 1);
  if (first < 0 || K < 1 || first > K || rows > K - first || C < 1 || packed.size % C ||
      packed.size / C != packed_linear_size(K, 1, isa))
    throw std::invalid_argument("the rows do not lie in the packed weight");
  const float *x = w.data(), *s = scale_of(scale, rows);
  ReleaseGil release;
  const int64_t begin = first / panel * panel,
                end = std::min(packed.size / C, (first + rows + panel - 1) / panel * panel);
  float* out = part_of(packed, begin * C, (end - begin) * C);
  pack_linear_rows(out, x, s, first, rows, K, C, taps, panel, isa);
}

// From the rows [first, first + rows) of w: [C, K].
void pack_dense_inputs(const PackedWeight& packed, int64_t C, int64_t panel, int64_t first, const Array& w,
                       const std::optional<Array>& scale, Isa isa) {
  if (w.ndim() != 2) throw std::invalid_argument("w must be a matrix");
  const int64_t rows = w.shape(0), K = w.shape(1);
  check_panel(panel, isa, 0);
  if (first < 0 || C < 1 || first > C || rows > C - first || packed.size % C ||
      packed.size / C != packed_linear_size(K, 1, isa))
    throw std::invalid_argument("the rows do not lie in the packed weight");
  const float *x = w.data(), *s = scale_of(scale, K);
  ReleaseGil release;
  pack_linear_inputs(part_of(packed, 0, packed.size), x, s, first, rows, K, C, 1, panel, isa);
}

}  // namespace
}  // namespace fastconv

using namespace fastconv;

void init_pack(py::module_& m) {
  py::class_<PackedWeight>(m, "PackedWeight", "Constant floats in the order in which a kernel reads them.")
      .def_readonly("size", &PackedWeight::size)
      .def(
          "numpy",
          [](const py::object& self) {
            const auto& w = self.cast<const PackedWeight&>();
            return py::array_t<float>(w.size, w.address, self);
          },
          "The floats themselves, not a copy: a writable vector that keeps them alive.");
  py::class_<WeightStore, std::shared_ptr<WeightStore>>(m, "WeightStore", "Memory of packed weights.")
      .def(py::init([](bool patient) { return std::make_shared<WeightStore>(patient); }), py::arg("patient") = false,
           "patient: wait for huge pages, however long the system takes for them.")
      .def_property_readonly("bytes", &WeightStore::bytes)
      .def("put", &put, py::arg("array"))
      .def("pack_conv2d", &pack_conv, py::arg("w"), py::arg("scale"), py::arg("groups"), py::arg("isa"))
      .def("pack_winograd", &pack_wino, py::arg("w"), py::arg("scale"), py::arg("m"), py::arg("isa"))
      .def("pack_depthwise_conv2d", &pack_depth, py::arg("w"), py::arg("scale"), py::arg("isa"))
      .def("reserve_conv2d", &reserve_conv, py::arg("K"), py::arg("C"), py::arg("R"), py::arg("S"), py::arg("isa"),
           "Room for a [K, C, R, S] weight of one group, to be filled by pack_conv2d_rows.")
      .def("reserve_winograd", &reserve_wino, py::arg("K"), py::arg("C"), py::arg("m"), py::arg("r"), py::arg("isa"),
           py::arg("axes") = 0,
           "Room for a [K, C, r, r] weight of F(m x m, r x r), to be filled by pack_winograd_rows.")
      .def("reserve_linear", &reserve_dense, py::arg("K"), py::arg("C"), py::arg("isa"),
           "Room for a [K, C] matrix, to be filled by pack_linear_rows or pack_linear_inputs.")
      .def("pack_linear", &pack_dense, py::arg("w"), py::arg("scale"), py::arg("trans_b"), py::arg("panel"),
           py::arg("isa"), py::arg("taps") = 1, "panel: see linear_panel.");

  m.def("panels", &panels, py::arg("K"), py::arg("isa"), "The first outputs of the panels of a convolution's weight.");
  m.def("pack_conv2d_rows", &pack_conv_rows, py::arg("packed"), py::arg("K"), py::arg("first"), py::arg("w"),
        py::arg("scale"), py::arg("isa"), "Fill in whole panels of K outputs from the first-th output on.");
  m.def("pack_winograd_rows", &pack_wino_rows, py::arg("packed"), py::arg("K"), py::arg("first"), py::arg("w"),
        py::arg("scale"), py::arg("m"), py::arg("isa"),
        "Fill in whole panels of K outputs from the first-th output on.");
  m.def("linear_panel", &linear_panel, py::arg("M"), py::arg("C"), py::arg("K"), py::arg("isa"),
        "Columns of a panel of the weights of a dense layer of M rows; 0: panels are those of a convolution.");
  m.def("pack_linear_rows", &pack_dense_rows, py::arg("packed"), py::arg("K"), py::arg("panel"), py::arg("first"),
        py::arg("w"), py::arg("scale"), py::arg("isa"), py::arg("taps") = 1,
        "Fill in rows of K from the first-th on; where panel is 0, pack_conv2d_rows does it.");
  m.def("pack_linear_inputs", &pack_dense_inputs, py::arg("packed"), py::arg("C"), py::arg("panel"), py::arg("first"),
        py::arg("w"), py::arg("scale"), py::arg("isa"),
        "Fill in what reads the inputs from the first-th on: w is [inputs, K] of C.");
}
