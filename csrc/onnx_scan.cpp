// ModelProto and the messages in it. Unknown fields are skipped. The nesting that is read here has a fixed depth
// (model, function, node, attribute, tensor), so that the input cannot drive recursion; subgraphs are skipped, not
// entered.
#include "onnx_scan.h"

#include "onnx_value_info.h"

namespace fastconv::onnx {
namespace {

class Scanner : ValueInfoReader {
 public:
  using ValueInfoReader::ValueInfoReader;

  Model model() {
    Model m;
    bool has_graph = false;
    const uint64_t end = src_.size();
    while (pos_ < end) {
      const Tag t = tag(end, "the model: not an ONNX file, or damaged");
      switch (t.field) {
        case 1:
          m.ir_version = integer(t, end, "ir_version");
          break;
        case 2:
          m.producer = text(t, end, "producer_name");
          break;
        case 7:
          if (has_graph) fail("the model has two graphs");
          has_graph = true;
          graph(sub(t, end, "graph"), m);
          break;
        case 8:
          m.opsets.push_back(opset(sub(t, end, "opset_import")));
          break;
        case 14:
          entry(sub(t, end, "metadata_props"), m.metadata);
          break;
        case 25:
          m.functions.push_back(function(sub(t, end, "function")));
          break;
        default:
          skip(t, end);
      }
    }
    if (!has_graph) fail("the model has no graph");
    return m;
  }

 private:
  Opset opset(uint64_t end) {
    Opset o;
    while (pos_ < end) {
      const Tag t = tag(end, "opset_import");
      if (t.field == 1)
        o.domain = text(t, end, "opset domain");
      else if (t.field == 2)
        o.version = integer(t, end, "opset version");
      else
        skip(t, end);
    }
    return o;
  }

  // A StringStringEntry. Values longer than a name (exporters' notes) are left out.
  void entry(uint64_t end, std::vector<std::pair<std::string, std::string>>& out) {
    std::string key, value;
    bool keep = true;
    while (pos_ < end) {
      const Tag t = tag(end, "a key-value entry");
      if (t.field == 1) {
        key = text(t, end, "entry key");
      } else if (t.field == 2 && t.wire == kBytes) {
        const uint64_t mark = pos_, n = length(end, "entry value");
        keep = n <= kMaxNameBytes;
        if (keep) {
          pos_ = mark;
          value = text(t, end, "entry value");
        } else {
          pos_ += n;
        }
      } else {
        skip(t, end);
      }
    }
    if (keep) out.emplace_back(std::move(key), std::move(value));
  }

  void graph(uint64_t end, Model& m) {
    while (pos_ < end) {
      const Tag t = tag(end, "graph");
      switch (t.field) {
        case 1:
          m.nodes.push_back(node(sub(t, end, "node")));
          break;
        case 2:
          m.graph_name = text(t, end, "graph name");
          break;
        case 5:
          m.initializers.push_back(tensor(sub(t, end, "initializer")));
          break;
        case 11:
          m.inputs.push_back(value_info(sub(t, end, "graph input")));
          break;
        case 12:
          m.outputs.push_back(value_info(sub(t, end, "graph output")));
          break;
        case 13:
          m.value_infos.push_back(value_info(sub(t, end, "value_info")));
          break;
        case 15:
          fail("sparse initializers are not supported");
        default:
          skip(t, end);
      }
    }
  }

  Node node(uint64_t end) {
    Node n;
    if (++nodes_ > kMaxNodes) fail("more than " + std::to_string(kMaxNodes) + " nodes");
    while (pos_ < end) {
      const Tag t = tag(end, "node");
      switch (t.field) {
        case 1:
          n.inputs.push_back(text(t, end, "node input"));
          break;
        case 2:
          n.outputs.push_back(text(t, end, "node output"));
          break;
        case 3:
          n.name = text(t, end, "node name");
          break;
        case 4:
          n.op_type = text(t, end, "op_type");
          break;
        case 5:
          n.attributes.push_back(attribute(sub(t, end, "attribute")));
          break;
        case 7:
          n.domain = text(t, end, "node domain");
          break;
        case 8:
          n.overload = text(t, end, "node overload");
          break;
        default:
          skip(t, end);
      }
    }
    return n;
  }

  Attribute attribute(uint64_t end) {
    Attribute a;
    int32_t seen = 0;  // the type that the fields suggest, for files that do not state it
    while (pos_ < end) {
      const Tag t = tag(end, "attribute");
      switch (t.field) {
        case 1:
          a.name = text(t, end, "attribute name");
          continue;
        case 2:
          expect(t, kFixed32, "attribute f");
          a.f = real(end, "attribute f");
          seen = 1;
          continue;
        case 3:
          a.i = integer(t, end, "attribute i");
          seen = 2;
          continue;
        case 4:
          a.s = bytes(t, end, "attribute s");
          seen = 3;
          continue;
        case 5:
          a.tensor = tensor(sub(t, end, "attribute t"));
          seen = 4;
          continue;
        case 6:
          a.graph = subgraph(sub(t, end, "attribute g"));
          seen = 5;
          continue;
        case 7:
          reals(t, end, a.floats, "attribute floats");
          seen = 6;
          continue;
        case 8:
          integers(t, end, a.ints, "attribute ints");
          seen = 7;
          continue;
        case 9:
          a.strings.push_back(bytes(t, end, "attribute strings"));
          seen = 8;
          continue;
        case 10:
          seen = 9;
          break;
        case 11:
          seen = 10;
          break;
        case 20:
          a.type = small_integer(t, end, "attribute type");
          continue;
        case 21:
          a.ref = text(t, end, "ref_attr_name");
          continue;
        case 22:
          seen = 11;
          break;
        default:
          break;
      }
      skip(t, end);
    }
    if (a.type == 0) a.type = seen;
    // An empty list or string has no field; any other mismatch is a contradiction.
    if (seen && a.type != seen && a.type <= 11)
      fail("attribute '" + a.name + "' says type " + std::to_string(a.type) + " but holds type " +
           std::to_string(seen));
    if (a.type == 5 && !a.graph && a.ref.empty()) fail("attribute '" + a.name + "' has no graph");
    if (a.type == 4 && !a.tensor && a.ref.empty()) fail("attribute '" + a.name + "' has no tensor");
    return a;
  }

  std::shared_ptr<Subgraph> subgraph(uint64_t end) {
    if (++depth_ > kMaxGraphDepth) fail("graphs in attributes are nested too deep");
    auto g = std::make_shared<Subgraph>();
    while (pos_ < end) {
      const Tag t = tag(end, "graph");
      switch (t.field) {
        case 1:
          g->nodes.push_back(node(sub(t, end, "node")));
          break;
        case 5:
          g->initializers.push_back(tensor(sub(t, end, "initializer")));
          break;
        case 11:
          g->inputs.push_back(value_info(sub(t, end, "graph input")).name);
          break;
        case 12:
          g->outputs.push_back(value_info(sub(t, end, "graph output")).name);
          break;
        case 15:
          fail("sparse initializers are not supported");
        default:
          skip(t, end);
      }
    }
    depth_--;
    return g;
  }

  std::shared_ptr<Tensor> tensor(uint64_t end) {
    auto out = std::make_shared<Tensor>();
    Tensor& x = *out;
    x.at = pos_;
    bool external_mark = false;
    while (pos_ < end) {
      const Tag t = tag(end, "tensor");
      switch (t.field) {
        case 1:
          integers(t, end, x.dims, "tensor dims");
          break;
        case 2:
          x.data_type = small_integer(t, end, "tensor data_type");
          break;
        case 3:
          fail("tensor segments are not supported");
        case 4:
          payload(t, end, x, Encoding::fixed32, kFixed32);
          break;
        case 5:
        case 7:
        case 11:
          payload(t, end, x, Encoding::varint, kVarint);
          break;
        case 6:
          charge();
          x.encoding = Encoding::string;
          skip(t, end);
          break;
        case 8:
          x.name = text(t, end, "tensor name");
          break;
        case 9:
          expect(t, kBytes, "raw_data");
          payload(t, end, x, Encoding::raw, kBytes);
          break;
        case 10:
          payload(t, end, x, Encoding::fixed64, kFixed64);
          break;
        case 13:
          external_mark = true;
          entry(sub(t, end, "external_data"), x.external_data);
          break;
        case 14: {
          const int64_t v = integer(t, end, "data_location");
          if (v != 0 && v != 1) fail("unknown data_location " + std::to_string(v));
          x.external = v == 1;
          break;
        }
        default:
          skip(t, end);
      }
    }
    if (external_mark && !x.external) fail("tensor '" + x.name + "' has external_data but no data_location EXTERNAL");
    if (x.external && x.encoding != Encoding::none) fail("tensor '" + x.name + "' has both external and own data");
    if (x.external)
      element_count(x.dims, raw_item_bytes(x.data_type), "tensor '" + x.name + "'");
    else
      check_payload(x);
    return out;
  }

  void payload(Tag t, uint64_t end, Tensor& x, Encoding encoding, uint32_t wire) {
    const uint64_t mark = pos_;
    uint64_t n = 0;
    if (t.wire == kBytes) {
      n = length(end, "tensor data");
      if (n == 0) return;
    } else {
      expect(t, wire, "tensor data");
      skip(t, end);
      n = pos_ - mark;
      pos_ = mark;
    }
    if (x.encoding != Encoding::none && (x.field != t.field || encoding == Encoding::raw))
      fail("tensor '" + x.name + "' has its data twice");
    x.encoding = encoding;
    x.field = t.field;
    const uint64_t word = encoding == Encoding::fixed32 ? 4 : encoding == Encoding::fixed64 ? 8 : 1;
    if (n % word) fail("tensor data of " + std::to_string(n) + " bytes is no multiple of " + std::to_string(word));
    if (n > kInlineBytes) {
      charge();
      x.segments.push_back({pos_, n, true});
      pos_ += n;
      return;
    }
    const uint64_t at = x.small.size();
    x.small.resize(at + n);
    copy(n, &x.small[at]);
    if (!x.segments.empty() && !x.segments.back().in_file)
      x.segments.back().length += n;
    else
      x.segments.push_back({at, n, false});
  }

  Function function(uint64_t end) {
    Function f;
    while (pos_ < end) {
      const Tag t = tag(end, "function");
      switch (t.field) {
        case 1:
          f.name = text(t, end, "function name");
          break;
        case 4:
          f.inputs.push_back(text(t, end, "function input"));
          break;
        case 5:
          f.outputs.push_back(text(t, end, "function output"));
          break;
        case 6:
          f.attributes.push_back(text(t, end, "function attribute"));
          break;
        case 7:
          f.nodes.push_back(node(sub(t, end, "function node")));
          break;
        case 9:
          f.opsets.push_back(opset(sub(t, end, "function opset_import")));
          break;
        case 10:
          f.domain = text(t, end, "function domain");
          break;
        case 11:
          f.defaults.push_back(attribute(sub(t, end, "function attribute")));
          break;
        case 13:
          f.overload = text(t, end, "function overload");
          break;
        default:
          skip(t, end);
      }
    }
    return f;
  }

  uint64_t nodes_ = 0;
  int depth_ = 0;
};

}  // namespace

Model scan(const Source& source) {
  if (source.size() == 0) throw ScanError("model file: it is empty");
  return Scanner(source).model();
}

}  // namespace fastconv::onnx
