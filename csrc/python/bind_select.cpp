// The choice of algorithms for Python: candidates of a shape, what each is expected to take, and which one is best.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cost.h"
#include "cpu/select.h"

namespace py = pybind11;

namespace fastconv {

namespace {

using Pair = std::array<int64_t, 2>;

ConvShape make_shape(int64_t N, int64_t H, int64_t W, int64_t C, int64_t K, int64_t P, int64_t Q, int64_t R, int64_t S,
                     int64_t groups, Pair strides, Pair dilations, std::array<int64_t, 4> pads) {
  return {N,       H,       W,       C,      K, P, Q, R, S, groups, strides[0], strides[1], dilations[0], dilations[1],
          pads[0], pads[1], pads[2], pads[3]};
}

using Named = std::pair<std::string, int>;

Named named(ConvPlan plan) { return {choice_name(plan.algorithm), plan.m}; }

std::map<std::string, double> by_name(const Cost& cost) {
  std::map<std::string, double> out;
  for (int i = 0; i < COST_TERMS; i++) out[cost_term_name(i)] = cost.terms[i];
  return out;
}

// The plan of that name, if it can compute the shape.
ConvPlan plan_of(const ConvShape& s, const std::string& algorithm, int m, Isa isa) {
  if (!countable(s)) throw std::invalid_argument("sizes are not positive, or too large to be counted");
  ConvChoice choice;
  if (choice_from_name(algorithm.c_str(), &choice)) {
    const Candidates c = conv2d_candidates(s, isa, LARGEST_WINOGRAD);
    for (int i = 0; i < c.count; i++) {
      if (c.plans[i].algorithm == choice && c.plans[i].m == m) return c.plans[i];
    }
  }
  throw std::invalid_argument("no algorithm " + algorithm + " with m = " + std::to_string(m) + " for this shape");
}

}  // namespace

void init_select(py::module_& m) {
  py::class_<ConvShape>(m, "ConvShape", "Sizes of a convolution: all that the choice of its algorithm looks at.")
      .def(py::init(&make_shape), py::kw_only(), py::arg("N"), py::arg("H"), py::arg("W"), py::arg("C"), py::arg("K"),
           py::arg("P"), py::arg("Q"), py::arg("R"), py::arg("S"), py::arg("groups"), py::arg("strides"),
           py::arg("dilations"), py::arg("pads"));
  m.def(
      "conv2d_candidates",
      [](const ConvShape& s, Isa isa, int winograd) {
        const Candidates c = conv2d_candidates(s, isa, winograd);
        std::vector<Named> out;
        for (int i = 0; i < c.count; i++) out.push_back(named(c.plans[i]));
        return out;
      },
      py::arg("shape"), py::arg("isa"), py::arg("winograd") = DEFAULT_WINOGRAD,
      "What can compute a shape, as (algorithm, m): gemm, implicit, row_run, depthwise, winograd or grouped, and\n"
      "the m of F(m x m, r x r), at most `winograd` (0: none).");
  m.def(
      "choose_conv2d", [](const ConvShape& s, Isa isa, int winograd) { return named(choose_conv2d(s, isa, winograd)); },
      py::arg("shape"), py::arg("isa"), py::arg("winograd") = DEFAULT_WINOGRAD,
      "The candidate that the cost model expects to be fastest; a function of these arguments alone.");
  m.def(
      "conv2d_terms",
      [](const ConvShape& s, const std::string& algorithm, int form, Isa isa) {
        return by_name(conv2d_cost(s, plan_of(s, algorithm, form, isa), isa));
      },
      py::arg("shape"), py::arg("algorithm"), py::arg("m"), py::arg("isa"), "The work of a candidate, by kind.");
  m.def(
      "conv2d_seconds",
      [](const ConvShape& s, const std::string& algorithm, int form, Isa isa) {
        return cost_seconds(conv2d_cost(s, plan_of(s, algorithm, form, isa), isa), isa);
      },
      py::arg("shape"), py::arg("algorithm"), py::arg("m"), py::arg("isa"),
      "What the cost model expects of a candidate on one thread of the CPU that it was fitted on.");
  m.def(
      "linear_terms", [](int64_t M, int64_t C, int64_t K, Isa isa) { return by_name(linear_cost(M, C, K, isa)); },
      py::arg("M"), py::arg("C"), py::arg("K"), py::arg("isa"));
  m.def(
      "linear_seconds",
      [](int64_t M, int64_t C, int64_t K, Isa isa) { return cost_seconds(linear_cost(M, C, K, isa), isa); },
      py::arg("M"), py::arg("C"), py::arg("K"), py::arg("isa"), "The same for a dense layer.");
  m.def("moved_seconds", &moved_seconds, py::arg("bytes"), py::arg("isa"),
        "The same for an operation that reads and writes so many bytes.");
  m.def("weight_price", &weight_price, py::arg("bytes"),
        "Seconds that choose_conv2d adds for bytes of packed weights: loading transforms them, threads share memory.");
  m.def("row_run_group", &row_run_group, py::arg("shape"), py::arg("isa"),
        "How many neighbouring outputs of row_run make one vector.");
  m.def("winograd_axes", &winograd_axes, py::arg("R"), py::arg("S"),
        "Which axes a filter runs along: 0 both, 1 down (R x 1), 2 across (1 x S); the field `axes` of Winograd.");
  m.attr("DEFAULT_WINOGRAD") = DEFAULT_WINOGRAD;
  m.attr("LARGEST_WINOGRAD") = LARGEST_WINOGRAD;
}

}  // namespace fastconv
