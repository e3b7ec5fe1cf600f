// Saved plans for Python: writing, and reading what plan_file.h describes.
#include <errno.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>
#include <string.h>

#include <map>
#include <optional>
#include <string_view>
#include <system_error>
#include <tuple>

#include "gil.h"
#include "plan_file.h"

namespace py = pybind11;

namespace fastconv {

namespace {

using Io = std::tuple<std::string, std::string, std::vector<int64_t>, bool>;  // name, dtype, shape, ragged
using Op = std::tuple<std::string, std::string, std::string, int64_t, int64_t, std::vector<int64_t>>;
using Metadata = std::vector<std::pair<std::string, std::string>>;
using Variant = std::tuple<std::shared_ptr<Plan>, std::vector<Io>, std::vector<Io>, std::vector<Op>>;

[[noreturn]] void raise_os_error(const std::system_error& e, const std::filesystem::path& path) {
  errno = e.code().value();
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  throw py::error_already_set();
}

std::vector<PlanToSave::Io> ios(const std::vector<Io>& given) {
  std::vector<PlanToSave::Io> out;
  for (const auto& [name, dtype, dims, ragged] : given) out.push_back({name, dtype, dims, ragged});
  return out;
}

void write(const std::filesystem::path& path, const std::string& model, const std::vector<std::string>& labels,
           const Metadata& metadata, const std::vector<Variant>& variants) {
  std::vector<PlanToSave> plans;
  for (const auto& [plan, inputs, outputs, ops] : variants) {
    PlanToSave p{plan.get(), ios(inputs), ios(outputs), {}};
    for (const auto& [name, op, algorithm, flops, bytes, dims] : ops) {
      p.operations.push_back({name, op, algorithm, flops, bytes, dims});
    }
    plans.push_back(std::move(p));
  }
  std::unique_ptr<std::system_error> failed;
  {
    ReleaseGil release;
    try {
      write_plan(path, {model, labels, metadata}, plans);
    } catch (const std::system_error& e) {
      failed = std::make_unique<std::system_error>(e);
    }
  }
  if (failed) raise_os_error(*failed, path);
}

// A variant that has been read, with the plan as Python shares it.
struct PyPlan {
  SavedPlan saved;
  std::shared_ptr<Plan> plan;
};

// Broken files are ValueErrors.
template <typename F>
auto translated(const F& f) {
  try {
    return f();
  } catch (const PlanFileError& e) {
    throw py::value_error(e.what());
  }
}

class PyFile {
 public:
  explicit PyFile(const std::filesystem::path& path) {
    try {
      bytes_ = std::make_shared<const PlanBytes>(path.c_str());
    } catch (const std::system_error& e) {
      raise_os_error(e, path);
    } catch (const PlanFileError& e) {
      throw py::value_error(e.what());
    }
  }
  // A copy, so that weights are aligned.
  explicit PyFile(const py::bytes& content) {
    const std::string_view view = content;
    auto block = std::make_shared<Block>(view.size());
    if (!view.empty()) memcpy(block->data(), view.data(), view.size());
    bytes_ = std::shared_ptr<const PlanBytes>(new PlanBytes(block->data(), view.size()),
                                              [block](const PlanBytes* p) { delete p; });
  }

  std::vector<std::string> levels() const {
    return translated([&] {
      std::vector<std::string> names;
      for (const Isa isa : saved_levels(*bytes_)) names.push_back(isa_name(isa));
      return names;
    });
  }

  PyPlan read(std::optional<Isa> isa, bool verify, bool look) const {
    return translated([&] {
      ReleaseGil release;
      SavedPlan saved =
          look && isa ? look_at_plan(bytes_, *isa, verify) : read_plan(bytes_, isa ? &*isa : nullptr, verify);
      std::shared_ptr<Plan> plan = std::move(saved.plan);
      return PyPlan{std::move(saved), std::move(plan)};
    });
  }

 private:
  std::shared_ptr<const PlanBytes> bytes_;
};

std::vector<Io> io_list(const std::vector<SavedIo>& ios) {
  std::vector<Io> out;
  for (const SavedIo& io : ios) out.emplace_back(io.name, io.dtype, io.dims, io.ragged);
  return out;
}

using KernelOp = std::tuple<std::string, std::string, std::string, std::string, int64_t, int64_t, std::vector<int64_t>>;

std::vector<KernelOp> op_list(const PyPlan& p) {
  std::vector<KernelOp> out;
  for (const SavedOp& o : p.saved.operations) {
    out.emplace_back(o.kernel, o.name, o.op, o.algorithm, o.flops, o.bytes, o.dims);
  }
  return out;
}

}  // namespace

void init_file(py::module_& m) {
  m.attr("PLAN_MAGIC") = py::bytes(FILE_MAGIC, sizeof FILE_MAGIC);
  m.attr("PLAN_VERSION") = FILE_VERSION;
  m.def("write_plan", &write, py::arg("path"), py::arg("model"), py::arg("labels"), py::arg("metadata"),
        py::arg("variants"),
        "Write an .fcplan file. metadata: (key, value). variants: (plan, inputs, outputs, operations) with inputs and\n"
        "outputs as (name, dtype, shape, ragged) and operations as (name, op, algorithm, flops, bytes, shape). Raises\n"
        "OSError.");
  m.def(
      "plan_checksum",
      [](const py::bytes& data) {
        const std::string_view view = data;
        return file_checksum(view.data(), view.size());
      },
      py::arg("data"), "The sum that plan files hold of their parts.");
  py::class_<PyPlan>(m, "SavedPlan", "One variant of a plan file, checked.")
      .def_property_readonly("plan", [](const PyPlan& p) { return p.plan; })
      .def_property_readonly("isa", [](const PyPlan& p) { return p.plan->isa(); })
      .def_property_readonly("model", [](const PyPlan& p) { return p.saved.model; })
      .def_property_readonly("labels", [](const PyPlan& p) { return p.saved.labels; })
      .def_property_readonly("metadata",
                             [](const PyPlan& p) {
                               return std::map<std::string, std::string>(p.saved.metadata.begin(),
                                                                         p.saved.metadata.end());
                             })
      .def_property_readonly("weight_bytes", [](const PyPlan& p) { return p.saved.weight_bytes; })
      .def_property_readonly("inputs", [](const PyPlan& p) { return io_list(p.saved.inputs); })
      .def_property_readonly("outputs", [](const PyPlan& p) { return io_list(p.saved.outputs); })
      .def_property_readonly("operations", &op_list);
  py::class_<PyFile>(m, "PlanFile", "An .fcplan file, mapped, or its bytes. Raises ValueError where it is broken.")
      .def(py::init<const py::bytes&>(), py::arg("content"))
      .def(py::init<const std::filesystem::path&>(), py::arg("path"))
      .def_property_readonly("levels", &PyFile::levels)
      .def("read", &PyFile::read, py::arg("isa") = py::none(), py::arg("verify") = false, py::arg("look") = false,
           "The variant of a level (None: the best that runs here); verify: check the sum of its weights; look: it "
           "need\n"
           "not run here. Raises ValueError for a broken file, RuntimeError where no such variant runs here.");
}

}  // namespace fastconv
