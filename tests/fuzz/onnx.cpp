// libFuzzer on the ONNX scanner: any bytes give an error or a model whose small payloads can be read.
#include <stdint.h>

#include <memory>
#include <new>

#include "onnx_scan.h"

using namespace fastconv::onnx;

static void read(const Source& source, const Tensor& tensor) {
  if (tensor.external) return;
  const size_t item = array_item_bytes(tensor.data_type);
  if (item == 0) return;
  try {
    check_payload(tensor);
    const uint64_t n = element_count(tensor.dims, item, tensor.name);
    if (n > 1 << 16) return;
    std::unique_ptr<char[]> out(new char[n * item + 1]);
    read_payload(source, tensor, out.get());
  } catch (const ScanError&) {
  }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemorySource source(data, size, nullptr);
  try {
    const Model model = scan(source);
    for (const auto& tensor : model.initializers) read(source, *tensor);
    for (const Node& node : model.nodes) {
      for (const Attribute& a : node.attributes) {
        if (a.tensor) read(source, *a.tensor);
      }
    }
  } catch (const ScanError&) {
  } catch (const std::bad_alloc&) {
  }
  return 0;
}
