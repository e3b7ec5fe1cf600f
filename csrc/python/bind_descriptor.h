// What the bindings of descriptors are made of: Binder gives a plain-data struct a constructor from keywords,
// properties and a repr; define_checks its `prepare` and `extent`.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "conv_checks.h"
#include "cpu/dispatch.h"

namespace fastconv {

namespace py = pybind11;

void init_training_ops(py::module_& m);

template <class T>
T read(const py::handle& value, const char* field) {
  try {
    return py::cast<T>(value);
  } catch (const py::cast_error&) {
    throw py::type_error(std::string(field) + " cannot be " + std::string(py::repr(value)));
  }
}

template <class D>
class Binder {
 public:
  Binder(py::module_& m, const char* name, const char* doc) : class_(m, name, doc), fields_(new Fields) {
    std::shared_ptr<Fields> fields = fields_;
    const std::string type = name;
    class_.def(py::init([fields, type](const py::kwargs& values) {
      D d{};
      for (const auto& [key, value] : values) {
        const std::string k = py::cast<std::string>(key);
        const Field* found = nullptr;
        for (const Field& f : *fields)
          if (k == f.name) found = &f;
        if (!found) throw py::type_error(type + " has no field '" + k + "'");
        found->set(d, value);
      }
      return d;
    }));
    class_.def("__bytes__", [](const D& d) { return py::bytes(reinterpret_cast<const char*>(&d), sizeof d); });
    class_.def("__repr__", [fields, type](const D& d) {
      std::string text;
      for (const Field& f : *fields)
        text += (text.empty() ? "" : ", ") + std::string(f.name) + "=" + std::string(py::repr(f.get(d)));
      return type + "(" + text + ")";
    });
  }

  template <class T>
  Binder& field(const char* name, T D::* member) {
    return add(
        name, [member](const D& d) { return py::cast(d.*member); },
        [member, name](D& d, const py::handle& v) { d.*member = read<T>(v, name); });
  }

  template <int n>
  Binder& field(const char* name, int64_t (D::*member)[n]) {
    return add(
        name,
        [member](const D& d) {
          return py::object(py::tuple(py::cast(std::vector<int64_t>(d.*member, d.*member + n))));
        },
        [member, name](D& d, const py::handle& v) {
          const auto values = read<std::vector<int64_t>>(v, name);
          if (values.size() > n)
            throw py::value_error(std::string(name) + " has more than " + std::to_string(n) + " entries");
          for (size_t i = 0; i < n; i++) (d.*member)[i] = i < values.size() ? values[i] : 0;
        });
  }

 private:
  using Get = std::function<py::object(const D&)>;
  using Set = std::function<void(D&, const py::handle&)>;
  struct Field {
    const char* name;
    Get get;
    Set set;
  };
  using Fields = std::vector<Field>;

  Binder& add(const char* name, const Get& get, const Set& set) {
    fields_->push_back({name, get, set});
    class_.def_property(name, [get](const D& d) { return get(d); }, [set](D& d, const py::object& v) { set(d, v); });
    return *this;
  }

  py::class_<D> class_;
  std::shared_ptr<Fields> fields_;
};

inline void require_isa(Isa isa) {
  if (!isa_supported(isa)) throw py::value_error(std::string("this CPU or build lacks ") + isa_name(isa));
}

// `op` tells apart the operations that share a descriptor; of most descriptors all have the same needs.
// What is meant where none is named: `op`, or of a convolution what its algorithm says.
template <class D>
Op meant(const D&, Op op) {
  return op;
}
inline Op meant(const Conv2d& d, Op) { return operation_of(d); }

template <class D>
void define_checks(py::module_& m, Op op) {
  m.def(
      "prepare",
      [op](D& d, Isa isa, const std::optional<Op>& other) {
        extent_for(d, isa, other.value_or(meant(d, op)));
        prepare_for(d, isa, other.value_or(meant(d, op)));
      },
      py::arg("desc"), py::arg("isa"), py::arg("op") = py::none(), "Check the descriptor and set its chunks.");
  m.def(
      "extent",
      [op](const D& d, Isa isa, const std::optional<Op>& other) {
        const Extent e = extent_for(d, isa, other.value_or(meant(d, op)));
        return py::make_tuple(py::make_tuple(e.in[0], e.in[1], e.in[2], e.in[3]), e.out);
      },
      py::arg("desc"), py::arg("isa"), py::arg("op") = py::none(),
      "Elements that each input and the output must have: ((int, ...), int).");
  m.def(
      "extent_more",
      [op](const D& d, Isa isa, const std::optional<Op>& other) {
        const Extent e = extent_for(d, isa, other.value_or(meant(d, op)));
        return py::make_tuple(e.more[0], e.more[1]);
      },
      py::arg("desc"), py::arg("isa"), py::arg("op") = py::none(),
      "Elements that the further outputs of a kernel must have: (int, int).");
}

}  // namespace fastconv
