// Plans and execution for Python: check, release the GIL, call.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "clock.h"
#include "conv_checks.h"
#include "cpu/select.h"
#include "cpu/winograd.h"
#include "gil.h"
#include "packed_weight.h"
#include "plan.h"

namespace py = pybind11;

namespace fastconv {

namespace {

// The caller's arrays, checked against what the plan touches. Each repeat has an equal share of each array.
struct Bound {
  std::vector<float*> pointers;
  std::vector<int64_t> strides;
};

Bound bind(const Plan& plan, const std::vector<py::array>& arrays, int64_t repeats) {
  if (repeats < 1) throw std::invalid_argument("repeats must be positive");
  const std::vector<int64_t>& sizes = plan.external_sizes();
  if (arrays.size() < sizes.size()) throw std::invalid_argument("too few arrays");
  Bound bound;
  bound.pointers.reserve(arrays.size()), bound.strides.reserve(arrays.size());
  for (size_t i = 0; i < arrays.size(); i++) {
    const py::array& a = arrays[i];
    if (!py::isinstance<py::array_t<float>>(a) || !(a.flags() & py::array::c_style)) {
      throw std::invalid_argument("arrays must be contiguous float32");
    }
    if (a.size() % repeats) throw std::invalid_argument("an array has no equal shares for the repeats");
    if (i < sizes.size() && a.size() / repeats < sizes[i]) throw std::invalid_argument("an array is too small");
    bound.pointers.push_back((float*)a.data());
    bound.strides.push_back(a.size() / repeats);
  }
  return bound;
}

void run(Executor& executor, const Plan& plan, const std::vector<py::array>& arrays, int64_t repeats) {
  const Bound bound = bind(plan, arrays, repeats);
  ReleaseGil release;
  executor.run(plan, bound.pointers.data(), nullptr, repeats, bound.strides.data());
}

py::array_t<int64_t> profile(Executor& executor, const Plan& plan, const std::vector<py::array>& arrays, int runs,
                             int64_t repeats) {
  const Bound bound = bind(plan, arrays, repeats);
  const size_t n = plan.operations().size();
  py::array_t<int64_t> result({(size_t)std::max(runs, 0), n});
  std::fill_n(result.mutable_data(), result.size(), int64_t(0));
  int64_t* out = result.mutable_data();
  for (int i = 0; i < runs; i++) {
    {
      ReleaseGil release;
      executor.run(plan, bound.pointers.data(), out + n * i, repeats, bound.strides.data());
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  return result;
}

double measure_peak(Isa isa, double seconds) {
  if (!isa_supported(isa)) throw std::invalid_argument("this CPU lacks that level");
  const KernelTable& table = kernels(isa);
  ReleaseGil release;
  auto clock = [] { return 1e-9 * static_cast<double>(nanoseconds_now()); };
  const int64_t iterations = 100000;
  double best = 0;
  const double until = clock() + seconds;
  do {
    const double start = clock();
    volatile float sink = table.fma_rate(iterations);
    (void)sink;
    best = std::max(best, iterations * table.fma_rate_flops / (clock() - start) * 1e-9);
  } while (clock() < until);
  return best;
}

}  // namespace
}  // namespace fastconv

using namespace fastconv;

void init_plan(py::module_& m) {
  m.def(
      "isa_levels",
      [] {
        std::vector<std::string> names;
        for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
          if (isa_supported(isa)) names.push_back(isa_name(isa));
        }
        return names;
      },
      "The instruction set levels that this CPU and this build have, slowest first.");
  m.def("usable_cpus", &usable_cpus, "Processors that this process may use, by affinity and cgroup quota.");
  m.def("huge_pages", &huge_pages, "What the system says of transparent huge pages.");
  m.def("vector_length", [](Isa isa) { return geometry(isa).vector_length; }, py::arg("isa"));
  m.def("measure_peak", &measure_peak, py::arg("isa"), py::arg("seconds") = 0.05,
        "The FMA rate of one core in GFLOP/s: independent chains in registers, best of many short runs.");
  m.def(
      "winograd_workspace",
      [](int64_t N, int64_t P, int64_t Q, int64_t C, int64_t K, int64_t m, int64_t r, int64_t axes) {
        if (!winograd_known(m, r, axes)) throw std::invalid_argument("no such form of Winograd's convolution");
        return winograd_workspace(N, P, Q, C, K, m, r, axes);
      },
      py::arg("N"), py::arg("P"), py::arg("Q"), py::arg("C"), py::arg("K"), py::arg("m"), py::arg("r"),
      py::arg("axes") = 0,
      "Floats of workspace between the two operations of a Winograd convolution; 0 where one does it all.");
  m.def("depthwise_bands", &depthwise_bands, py::arg("P"),
        "Into how many bands of rows a depthwise convolution cuts the sums over an image of P rows.");
  m.def(
      "conv2d_panels",
      [](int64_t K, Isa isa) {
        const int64_t V = geometry(isa).vector_length;
        std::vector<int64_t> widths;
        for (int64_t p = 0; p < panel_count(K, isa); p++) {
          widths.push_back((panel_first(K, p + 1, isa) - panel_first(K, p, isa) + V - 1) / V * V);
        }
        return widths;
      },
      py::arg("K"), py::arg("isa"), "Columns of each panel of packed convolution weights, filled up with zeros.");

  py::class_<Plan, std::shared_ptr<Plan>> plan(m, "Plan", "A flat list of operations on fixed buffers.");
  plan.def(py::init<Isa, std::shared_ptr<WeightStore>>(), py::arg("isa"), py::arg("weights"))
      .def("arena", &Plan::add_arena, py::arg("offset"), py::arg("size"), "A tensor in the arena; returns its number.")
      .def(
          "weight",
          [](Plan& p, const PackedWeight& w, int64_t first) {
            if (first < 0 || first > w.size) throw std::invalid_argument("the weight has no such element");
            return p.add_weight(w.address + first, w.size - first);
          },
          py::arg("weight"), py::arg("first") = 0, py::keep_alive<1, 2>(), "A weight, from its first-th element on.")
      .def(
          "state",
          [](Plan& p, const PackedWeight& w, int64_t first, int64_t size) {
            if (first < 0 || size < 0 || first > w.size || size > w.size - first) {
              throw std::invalid_argument("state tensor: beyond its memory");
            }
            return p.add_state(const_cast<float*>(w.address) + first, size);
          },
          py::arg("state"), py::arg("first"), py::arg("size"), py::keep_alive<1, 2>(),
          "A tensor that operations may write, in memory that outlives runs.")
      .def("external", &Plan::add_external, py::arg("index"), py::arg("first"), py::arg("size"),
           "A tensor in the index-th array of a run.")
      .def_property_readonly("arena_bytes", &Plan::arena_bytes)
      .def_property_readonly("scratch_bytes", &Plan::scratch_bytes)
      .def("__len__", [](const Plan& p) { return p.operations().size(); });
#define KERNEL(name, Descriptor)                                                   \
  plan.def(#name, &Plan::name, py::arg("desc"), py::arg("inputs"), py::arg("out"), \
           py::arg("more") = std::vector<int>());
#include "cpu/kernels.def"
#undef KERNEL

  py::class_<Executor, std::shared_ptr<Executor>>(m, "Executor", "Arenas and threads for runs of plans.")
      .def(py::init<int>(), py::arg("threads"))
      .def_property_readonly("threads", &Executor::threads)
      .def("run", &run, py::arg("plan"), py::arg("arrays"), py::arg("repeats") = 1,
           "Run with these float32 arrays as externals; the plan's outputs among them are overwritten. repeats: so "
           "many\n"
           "times, each on its share of each array; the shares are equal and lie one after the other.")
      .def("profile", &profile, py::arg("plan"), py::arg("arrays"), py::arg("runs"), py::arg("repeats") = 1,
           "Nanoseconds as int64[runs, operations], of all repeats together.");
}
