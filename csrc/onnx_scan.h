// Reads ONNX files (protobuf wire format) without protobuf and without ever holding the whole file.
//
// A Source is a file or a span of memory. `scan` walks over it through one small window and returns the structure:
// nodes, names, shapes, attributes. Tensor payloads above kInlineBytes are only located (offset, length, encoding);
// `read_payload` later copies one into the caller's array. The input is untrusted: every length is checked against its
// enclosing message, every count against a budget, every name against UTF-8. All failures are a ScanError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fastconv::onnx {

class ScanError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Bytes that can be read at any offset, from several threads at once.
class Source {
 public:
  virtual ~Source() = default;
  virtual uint64_t size() const = 0;
  // Copies bytes [offset, offset + n) to dst; throws ScanError where they are not there (any more).
  virtual void read(uint64_t offset, uint64_t n, void* dst) const = 0;
  // Throws ScanError if the contents may have changed since the Source was made.
  virtual void check_unchanged() const {}
};

// A regular file. Owns the descriptor from the first line of the constructor on.
class FileSource final : public Source {
 public:
  explicit FileSource(int fd);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, uint64_t n, void* dst) const override;
  void check_unchanged() const override;

 private:
  int fd_;
  uint64_t size_ = 0;
  int64_t mtime_s_ = 0, mtime_ns_ = 0;
};

// A span of memory that `owner` keeps alive.
class MemorySource final : public Source {
 public:
  MemorySource(const void* data, uint64_t size, std::shared_ptr<const void> owner)
      : data_(static_cast<const unsigned char*>(data)), size_(size), owner_(std::move(owner)) {}
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, uint64_t n, void* dst) const override;

 private:
  const unsigned char* data_;
  uint64_t size_;
  std::shared_ptr<const void> owner_;
};

inline constexpr uint64_t kInlineBytes = 1024;       // larger payloads stay in the file
inline constexpr uint64_t kMaxNameBytes = 1u << 16;  // one name or string attribute
inline constexpr uint64_t kMaxItems = 1u << 20;      // nodes, attributes, names, dims, list elements: all together
inline constexpr uint64_t kMaxNodes = 20000;         // of the graph and of all functions
inline constexpr uint64_t kMaxTensorBytes = 1ull << 40;
inline constexpr size_t kMaxRank = 32;
inline constexpr int kMaxGraphDepth = 16;  // of graphs in attributes

// TensorProto.DataType, the ones that have numpy's layout (bfloat16 is widened to float32 while it is read).
enum DataType : int32_t {
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBfloat16 = 16
};

// How the payload is written: the bytes themselves, little-endian words of a repeated field, or varints.
enum class Encoding { none, raw, fixed32, fixed64, varint, string };

struct Segment {
  uint64_t offset, length;
  bool in_file;  // else in Tensor::small
};

struct Tensor {
  std::string name;
  int32_t data_type = 0;
  std::vector<int64_t> dims;
  Encoding encoding = Encoding::none;
  uint32_t field = 0;  // the TensorProto field that holds the payload
  std::vector<Segment> segments;
  std::string small;
  bool external = false;
  std::vector<std::pair<std::string, std::string>> external_data;
  uint64_t at = 0;  // byte offset of the message, for error texts

  uint64_t payload_bytes() const;
};

struct Subgraph;

struct Attribute {
  std::string name, ref;
  int32_t type = 0;  // AttributeProto.AttributeType
  float f = 0;
  int64_t i = 0;
  std::string s;
  std::vector<float> floats;
  std::vector<int64_t> ints;
  std::vector<std::string> strings;
  std::shared_ptr<Tensor> tensor;
  std::shared_ptr<Subgraph> graph;  // lists of graphs or tensors, sparse tensors and types: only `type` tells
};

struct Node {
  std::string name, op_type, domain, overload;
  std::vector<std::string> inputs, outputs;
  std::vector<Attribute> attributes;
};

// A branch of an If.
struct Subgraph {
  std::vector<Node> nodes;
  std::vector<std::shared_ptr<Tensor>> initializers;
  std::vector<std::string> inputs, outputs;
};

struct Dim {
  enum Kind { unknown, value, symbol } kind = unknown;
  int64_t number = 0;
  std::string name;
};

struct ValueInfo {
  std::string name;
  int32_t elem_type = 0;  // 0: not a tensor, or not given
  bool has_shape = false;
  std::vector<Dim> dims;
};

struct Opset {
  std::string domain;
  int64_t version = 0;
};

struct Function {
  std::string name, domain, overload;
  std::vector<std::string> inputs, outputs, attributes;
  std::vector<Attribute> defaults;
  std::vector<Node> nodes;
  std::vector<Opset> opsets;
};

struct Model {
  int64_t ir_version = 0;
  std::string producer, graph_name;
  std::vector<Opset> opsets;
  std::vector<Node> nodes;
  std::vector<std::shared_ptr<Tensor>> initializers;
  std::vector<ValueInfo> inputs, outputs, value_infos;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<Function> functions;
};

Model scan(const Source& source);

// Bytes of one element in the array that read_payload fills; 0 for a type that has none (strings, 4 and 8 bit floats).
size_t array_item_bytes(int32_t data_type);
// Product of dims, checked: rank, negative dims, 64-bit overflow and kMaxTensorBytes.
uint64_t element_count(const std::vector<int64_t>& dims, size_t item_bytes, const std::string& what);
// Throws unless the payload (not external) can hold exactly the elements that type and dims ask for. O(1).
void check_payload(const Tensor& tensor);
// Fills dst (element_count * array_item_bytes bytes). Call check_payload first: then the file bounds dst's size.
void read_payload(const Source& source, const Tensor& tensor, void* dst);
// Elements [first, first + count) of a float32 payload that is not varints; check_payload first.
void read_floats(const Source& source, const Tensor& tensor, uint64_t first, uint64_t count, float* dst);
// The same for little-endian elements that lie at `offset` (external data).
void read_raw(const Source& source, uint64_t offset, int32_t data_type, uint64_t count, void* dst);
// Bytes of one element as it lies in raw data.
size_t raw_item_bytes(int32_t data_type);

}  // namespace fastconv::onnx
