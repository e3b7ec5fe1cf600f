// ValueInfoProto and the messages in it: the name, element type and shape of an input or output.
#pragma once

#include <string>
#include <utility>

#include "onnx_wire.h"

namespace fastconv::onnx {

class ValueInfoReader : public WireReader {
 public:
  using WireReader::WireReader;

 protected:
  ValueInfo value_info(uint64_t end) {
    ValueInfo v;
    while (pos_ < end) {
      const Tag t = tag(end, "value_info");
      if (t.field == 1)
        v.name = text(t, end, "value name");
      else if (t.field == 2)
        type(sub(t, end, "type"), v);
      else
        skip(t, end);
    }
    return v;
  }

 private:
  void type(uint64_t end, ValueInfo& v) {
    while (pos_ < end) {
      const Tag t = tag(end, "type");
      if (t.field != 1) {
        skip(t, end);
        continue;
      }
      const uint64_t stop = sub(t, end, "tensor type");
      while (pos_ < stop) {
        const Tag u = tag(stop, "tensor type");
        if (u.field == 1)
          v.elem_type = small_integer(u, stop, "elem_type");
        else if (u.field == 2)
          shape(sub(u, stop, "shape"), v);
        else
          skip(u, stop);
      }
    }
  }

  void shape(uint64_t end, ValueInfo& v) {
    v.has_shape = true;
    while (pos_ < end) {
      const Tag t = tag(end, "shape");
      if (t.field != 1) {
        skip(t, end);
        continue;
      }
      const uint64_t stop = sub(t, end, "dimension");
      Dim d;
      while (pos_ < stop) {
        const Tag u = tag(stop, "dimension");
        if (u.field == 1) {
          d.kind = Dim::value;
          d.number = integer(u, stop, "dim_value");
        } else if (u.field == 2) {
          d.kind = Dim::symbol;
          d.name = text(u, stop, "dim_param");
        } else {
          skip(u, stop);
        }
      }
      v.dims.push_back(std::move(d));
      if (v.dims.size() > kMaxRank) fail("value '" + v.name + "' has more than " + std::to_string(kMaxRank) + " dims");
    }
  }
};

}  // namespace fastconv::onnx
