// fastconv._core: ModelFile and OnnxTensor, the Python face of the ONNX scanner. The GIL is released while it scans and
// while payloads are read. ScanError becomes fastconv.errors.ModelError.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../onnx_scan.h"
#include "gil.h"

namespace py = pybind11;

namespace fastconv::onnx {
namespace {

const char* numpy_name(int32_t type) {
  switch (type) {
    case kFloat:
    case kBfloat16:
      return "float32";
    case kUint8:
      return "uint8";
    case kInt8:
      return "int8";
    case kUint16:
      return "uint16";
    case kInt16:
      return "int16";
    case kInt32:
      return "int32";
    case kInt64:
      return "int64";
    case kBool:
      return "bool";
    case kFloat16:
      return "float16";
    case kDouble:
      return "float64";
    case kUint32:
      return "uint32";
    case kUint64:
      return "uint64";
    default:
      return "";
  }
}

// Keeps a bytes object alive for a MemorySource; the last owner may let go of it on any thread.
std::shared_ptr<const void> keep(const py::bytes& data) {
  auto* object = new py::bytes(data);
  return {static_cast<const void*>(object), [object](const void*) {
            py::gil_scoped_acquire gil;
            delete object;
          }};
}

class ModelFile {
 public:
  explicit ModelFile(std::shared_ptr<const Source> source) : source_(std::move(source)) {}
  const Source& source() const { return *source_; }

  py::array read(const Tensor& t) const {
    if (t.external) throw ScanError("tensor '" + t.name + "' is stored in an external file");
    check_payload(t);
    py::array out = make(t.data_type, t.dims, "tensor '" + t.name + "'");
    void* dst = out.mutable_data();
    {
      ReleaseGil release;
      read_payload(*source_, t, dst);
    }
    return out;
  }

  void read_part(const Tensor& t, uint64_t first, py::array_t<float, py::array::c_style> out) const {
    if (t.external) throw ScanError("tensor '" + t.name + "' is stored in an external file");
    if (t.data_type != kFloat) throw ScanError("tensor '" + t.name + "' is not read in parts");
    check_payload(t);
    float* dst = out.mutable_data();
    const auto count = static_cast<uint64_t>(out.size());
    ReleaseGil release;
    read_floats(*source_, t, first, count, dst);
  }

  void read_raw_part(uint64_t offset, py::array_t<float, py::array::c_style> out) const {
    float* dst = out.mutable_data();
    const auto count = static_cast<uint64_t>(out.size());
    ReleaseGil release;
    onnx::read_raw(*source_, offset, kFloat, count, dst);
  }

  py::array read_raw(uint64_t offset, int32_t data_type, const std::vector<int64_t>& dims) const {
    const size_t item = raw_item_bytes(data_type);
    const uint64_t n = element_count(dims, item, "external data");
    if (offset > source_->size() || n * item > source_->size() - offset)
      throw ScanError("external data: " + std::to_string(n * item) + " bytes at offset " + std::to_string(offset) +
                      " do not lie in a file of " + std::to_string(source_->size()) + " bytes");
    py::array out = make(data_type, dims, "external data");
    void* dst = out.mutable_data();
    {
      ReleaseGil release;
      onnx::read_raw(*source_, offset, data_type, n, dst);
    }
    return out;
  }

 private:
  static py::array make(int32_t data_type, const std::vector<int64_t>& dims, const std::string& what) {
    if (array_item_bytes(data_type) == 0)
      throw ScanError(what + ": data type " + std::to_string(data_type) + " cannot be read");
    return py::array(py::dtype(numpy_name(data_type)), std::vector<py::ssize_t>(dims.begin(), dims.end()));
  }

  std::shared_ptr<const Source> source_;
};

template <class T, class F>
py::tuple to_tuple(const std::vector<T>& items, F convert) {
  py::tuple out(items.size());
  for (size_t i = 0; i < items.size(); ++i) out[i] = convert(items[i]);
  return out;
}

py::tuple strings(const std::vector<std::string>& items) {
  return to_tuple(items, [](const std::string& s) { return py::str(s); });
}

py::dict subgraph(const Subgraph& g);

// {name: (type, value, ref_attr_name)}
py::dict attributes(const std::vector<Attribute>& items, const std::string& where) {
  py::dict out;
  for (const Attribute& a : items) {
    py::object value = py::none();
    switch (a.type) {
      case 1:
        value = py::float_(a.f);
        break;
      case 2:
        value = py::int_(a.i);
        break;
      case 3:
        value = py::bytes(a.s);
        break;
      case 4:
        value = py::cast(a.tensor);
        break;
      case 5:
        if (a.graph) value = subgraph(*a.graph);
        break;
      case 6:
        value = to_tuple(a.floats, [](float f) { return py::float_(f); });
        break;
      case 7:
        value = to_tuple(a.ints, [](int64_t i) { return py::int_(i); });
        break;
      case 8:
        value = to_tuple(a.strings, [](const std::string& s) { return py::bytes(s); });
        break;
      default:
        break;
    }
    const py::str name(a.name);
    if (out.contains(name)) throw ScanError(where + " has attribute '" + a.name + "' twice");
    out[name] = py::make_tuple(a.type, value, a.ref);
  }
  return out;
}

// (op_type, domain, overload, name, inputs, outputs, attributes)
py::tuple node(const Node& n) {
  return py::make_tuple(n.op_type, n.domain, n.overload, n.name, strings(n.inputs), strings(n.outputs),
                        attributes(n.attributes, "node '" + n.name + "' (" + n.op_type + ")"));
}

py::dict subgraph(const Subgraph& g) {
  using namespace py::literals;
  return py::dict(
      "nodes"_a = to_tuple(g.nodes, node),
      "initializers"_a = to_tuple(g.initializers, [](const std::shared_ptr<Tensor>& t) { return py::cast(t); }),
      "inputs"_a = strings(g.inputs), "outputs"_a = strings(g.outputs));
}

// (name, elem_type, None | (int | str | None, ...))
py::tuple value_info(const ValueInfo& v) {
  py::object shape = py::none();
  if (v.has_shape)
    shape = to_tuple(v.dims, [](const Dim& d) -> py::object {
      if (d.kind == Dim::value) return py::int_(d.number);
      if (d.kind == Dim::symbol && !d.name.empty()) return py::str(d.name);
      return py::none();
    });
  return py::make_tuple(v.name, v.elem_type, shape);
}

py::tuple opsets(const std::vector<Opset>& items) {
  return to_tuple(items, [](const Opset& o) { return py::make_tuple(o.domain, o.version); });
}

py::dict function(const Function& f) {
  using namespace py::literals;
  return py::dict("name"_a = f.name, "domain"_a = f.domain, "overload"_a = f.overload, "inputs"_a = strings(f.inputs),
                  "outputs"_a = strings(f.outputs), "attributes"_a = strings(f.attributes),
                  "defaults"_a = attributes(f.defaults, "function '" + f.name + "'"),
                  "nodes"_a = to_tuple(f.nodes, node), "opsets"_a = opsets(f.opsets));
}

py::dict scan_to_python(const ModelFile& file) {
  using namespace py::literals;
  Model m;
  {
    ReleaseGil release;
    m = scan(file.source());
  }
  py::dict metadata;
  for (const auto& [key, value] : m.metadata) metadata[py::str(key)] = py::str(value);
  return py::dict(
      "ir_version"_a = m.ir_version, "producer"_a = m.producer, "name"_a = m.graph_name, "opsets"_a = opsets(m.opsets),
      "nodes"_a = to_tuple(m.nodes, node),
      "initializers"_a = to_tuple(m.initializers, [](const std::shared_ptr<Tensor>& t) { return py::cast(t); }),
      "inputs"_a = to_tuple(m.inputs, value_info), "outputs"_a = to_tuple(m.outputs, value_info),
      "value_infos"_a = to_tuple(m.value_infos, value_info), "metadata"_a = metadata,
      "functions"_a = to_tuple(m.functions, function));
}

}  // namespace
}  // namespace fastconv::onnx

void init_onnx(py::module_& m) {
  using namespace fastconv::onnx;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ScanError& e) {
      py::set_error(py::module_::import("fastconv.errors").attr("ModelError"), e.what());
    }
  });

  py::class_<Tensor, std::shared_ptr<Tensor>>(m, "OnnxTensor", "A TensorProto whose payload is only located.")
      .def_readonly("name", &Tensor::name)
      .def_readonly("data_type", &Tensor::data_type, "TensorProto.DataType")
      .def_property_readonly(
          "dtype", [](const Tensor& t) { return numpy_name(t.data_type); },
          "numpy's name of the array that `read` makes (bfloat16 widens to float32), or ''")
      .def_property_readonly("dims", [](const Tensor& t) { return py::tuple(py::cast(t.dims)); })
      .def_property_readonly("payload_bytes", &Tensor::payload_bytes)
      .def_readonly("external", &Tensor::external)
      .def_property_readonly("external_data", [](const Tensor& t) {
        py::dict out;
        for (const auto& [key, value] : t.external_data) out[py::str(key)] = py::str(value);
        return out;
      });

  py::class_<ModelFile, std::shared_ptr<ModelFile>>(m, "ModelFile", "An open model or data file, or one in memory.")
      .def(py::init([](int fd) { return ModelFile(std::make_shared<FileSource>(fd)); }), py::arg("fd"),
           "Takes over a descriptor, which must be a regular file.")
      .def_static(
          "from_bytes",
          [](const py::bytes& data) {
            char* p = nullptr;
            py::ssize_t n = 0;
            if (PyBytes_AsStringAndSize(data.ptr(), &p, &n) != 0) throw py::error_already_set();
            return ModelFile(std::make_shared<MemorySource>(p, static_cast<uint64_t>(n), keep(data)));
          },
          py::arg("data"))
      .def_property_readonly("size", [](const ModelFile& f) { return f.source().size(); })
      .def("scan", &scan_to_python, "The structure of the ModelProto, without its large payloads.")
      .def("read", &ModelFile::read, py::arg("tensor"), "A tensor's payload as a fresh array.")
      .def("read_part", &ModelFile::read_part, py::arg("tensor"), py::arg("first"), py::arg("out").noconvert(),
           "Elements of a float32 tensor from the first-th on into an array.")
      .def("read_raw_part", &ModelFile::read_raw_part, py::arg("offset"), py::arg("out").noconvert(),
           "Little-endian float32 elements that lie at `offset` into an array.")
      .def("read_raw", &ModelFile::read_raw, py::arg("offset"), py::arg("data_type"), py::arg("dims"),
           "Little-endian elements that lie at `offset`, as a fresh array.");
}
