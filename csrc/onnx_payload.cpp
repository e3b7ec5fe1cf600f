// Sources, and tensor payloads: from raw bytes, little-endian words or varints into an array of the tensor's type.
// check_payload bounds the array by the bytes that are really there (a varint element takes at least one byte), so that
// a small file cannot ask for a large allocation.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "onnx_scan.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the ONNX reader copies little-endian data and needs a little-endian machine"
#endif

namespace fastconv::onnx {
namespace {

std::string label(const Tensor& t) { return "tensor '" + t.name + "' (byte " + std::to_string(t.at) + ")"; }

// The TensorProto field that holds elements of this type when raw_data does not.
uint32_t typed_field(int32_t type) {
  switch (type) {
    case kFloat:
      return 4;
    case kInt32:
    case kInt16:
    case kInt8:
    case kUint16:
    case kUint8:
    case kBool:
    case kFloat16:
    case kBfloat16:
      return 5;
    case kInt64:
      return 7;
    case kDouble:
      return 10;
    case kUint32:
    case kUint64:
      return 11;
    default:
      return 0;
  }
}

// bfloat16 is the upper half of a float32. Walks backwards, so that src may be the first half of dst.
void widen_bfloat16(void* dst, const void* src, uint64_t n) {
  auto* to = static_cast<unsigned char*>(dst);
  const auto* from = static_cast<const unsigned char*>(src);
  for (uint64_t i = n; i-- > 0;) {
    uint16_t half;
    std::memcpy(&half, from + 2 * i, 2);
    const uint32_t word = static_cast<uint32_t>(half) << 16;
    std::memcpy(to + 4 * i, &word, 4);
  }
}

// Raw bytes lie at the front of dst; bring them into the array's form.
void finish_raw(int32_t type, uint64_t n, void* dst) {
  if (type == kBfloat16) widen_bfloat16(dst, dst, n);
  if (type == kBool) {
    auto* p = static_cast<unsigned char*>(dst);
    for (uint64_t i = 0; i < n; ++i) p[i] = p[i] != 0;
  }
}

class VarintSink {
 public:
  VarintSink(const Tensor& t, uint64_t n, void* dst)
      : t_(t), n_(n), dst_(static_cast<unsigned char*>(dst)), item_(array_item_bytes(t.data_type)) {}

  void feed(const unsigned char* p, uint64_t n) {
    for (const unsigned char* end = p + n; p < end; ++p) {
      if (shift_ > 63 || (shift_ == 63 && *p > 1)) throw ScanError(label(t_) + ": a number does not fit into 64 bits");
      value_ |= static_cast<uint64_t>(*p & 0x7F) << shift_;
      shift_ += 7;
      if (*p & 0x80) continue;
      store();
      value_ = 0;
      shift_ = 0;
    }
  }

  void finish() const {
    if (shift_ || done_ != n_)
      throw ScanError(label(t_) + ": expected " + std::to_string(n_) + " elements, got " + std::to_string(done_));
  }

 private:
  void store() {
    if (done_ == n_) throw ScanError(label(t_) + ": more elements than its dims say");
    const auto v = static_cast<int64_t>(value_);
    switch (t_.data_type) {
      case kInt64:
        put<int64_t>(v);
        break;
      case kUint64:
        put<uint64_t>(value_);
        break;
      case kUint32:
        put<uint32_t>(in_range(v, 0, UINT32_MAX));
        break;
      case kInt32:
        put<int32_t>(in_range(v, INT32_MIN, INT32_MAX));
        break;
      case kInt16:
        put<int16_t>(in_range(v, INT16_MIN, INT16_MAX));
        break;
      case kInt8:
        put<int8_t>(in_range(v, INT8_MIN, INT8_MAX));
        break;
      case kUint16:
      case kFloat16:
        put<uint16_t>(in_range(v, 0, UINT16_MAX));
        break;
      case kUint8:
        put<uint8_t>(in_range(v, 0, UINT8_MAX));
        break;
      case kBool:
        put<uint8_t>(v != 0);
        break;
      default:
        put<uint32_t>(static_cast<uint32_t>(in_range(v, 0, UINT16_MAX)) << 16);  // bfloat16
    }
  }

  int64_t in_range(int64_t v, int64_t low, int64_t high) const {
    if (v < low || v > high) throw ScanError(label(t_) + ": element " + std::to_string(v) + " does not fit its type");
    return v;
  }

  template <class T>
  void put(int64_t v) {
    const T x = static_cast<T>(v);
    std::memcpy(dst_ + done_++ * item_, &x, sizeof x);
  }

  const Tensor& t_;
  const uint64_t n_;
  unsigned char* dst_;
  const uint64_t item_;
  uint64_t done_ = 0, value_ = 0;
  unsigned shift_ = 0;
};

}  // namespace

// -- sources --------------------------------------------------------------------------------------------------
FileSource::FileSource(int fd) : fd_(fd) {
  struct stat st;
  const char* problem = fstat(fd, &st) != 0    ? "cannot be examined"
                        : !S_ISREG(st.st_mode) ? "is no regular file"
                                               : nullptr;
  if (problem) {
    close(fd);
    throw ScanError(std::string("model file: it ") + problem);
  }
  size_ = static_cast<uint64_t>(st.st_size);
  mtime_s_ = st.st_mtim.tv_sec;
  mtime_ns_ = st.st_mtim.tv_nsec;
}

FileSource::~FileSource() { close(fd_); }

void FileSource::check_unchanged() const {
  struct stat st;
  if (fstat(fd_, &st) != 0 || static_cast<uint64_t>(st.st_size) != size_ || st.st_mtim.tv_sec != mtime_s_ ||
      st.st_mtim.tv_nsec != mtime_ns_)
    throw ScanError("model file: it changed after it was loaded; load it again");
}

void FileSource::read(uint64_t offset, uint64_t n, void* dst) const {
  if (offset > size_ || n > size_ - offset) throw ScanError("model file: a read past its end");
  auto* to = static_cast<unsigned char*>(dst);
  while (n > 0) {
    const ssize_t got = pread(fd_, to, std::min<uint64_t>(n, 1u << 30), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw ScanError(std::string("model file: ") + std::strerror(errno));
    if (got == 0) throw ScanError("model file: it became shorter after it was loaded");
    to += got;
    offset += static_cast<uint64_t>(got);
    n -= static_cast<uint64_t>(got);
  }
}

void MemorySource::read(uint64_t offset, uint64_t n, void* dst) const {
  if (offset > size_ || n > size_ - offset) throw ScanError("model: a read past its end");
  std::memcpy(dst, data_ + offset, n);
}

// -- sizes ----------------------------------------------------------------------------------------------------
size_t raw_item_bytes(int32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
    case kFloat16:
    case kBfloat16:
      return 2;
    case kFloat:
    case kInt32:
    case kUint32:
      return 4;
    case kInt64:
    case kUint64:
    case kDouble:
      return 8;
    default:
      return 0;
  }
}

size_t array_item_bytes(int32_t type) { return type == kBfloat16 ? 4 : raw_item_bytes(type); }

uint64_t element_count(const std::vector<int64_t>& dims, size_t item_bytes, const std::string& what) {
  if (dims.size() > kMaxRank) throw ScanError(what + ": rank " + std::to_string(dims.size()) + " is above 32");
  const uint64_t limit = kMaxTensorBytes / std::max<uint64_t>(item_bytes, 1);
  uint64_t n = 1;
  bool empty = false;
  for (const int64_t d : dims) {  // zeros last: the other dims alone must fit too
    if (d < 0) throw ScanError(what + ": negative dimension " + std::to_string(d));
    empty |= d == 0;
    if (d > 0 && static_cast<uint64_t>(d) > limit / n)
      throw ScanError(what + ": its dims ask for more than 2^40 bytes");
    n *= d > 0 ? static_cast<uint64_t>(d) : 1;
  }
  return empty ? 0 : n;
}

uint64_t Tensor::payload_bytes() const {
  uint64_t n = 0;
  for (const Segment& s : segments) n += s.length;
  return n;
}

void check_payload(const Tensor& t) {
  const size_t item = raw_item_bytes(t.data_type);
  const uint64_t n = element_count(t.dims, item, label(t));
  if (item == 0) return;  // strings and small floats are refused where they are used
  const uint64_t bytes = t.payload_bytes();
  if (t.encoding == Encoding::varint) {
    if (t.field != typed_field(t.data_type))
      throw ScanError(label(t) + ": its data is in the wrong field for its type");
    if (n <= bytes && bytes <= 10 * n) return;
  } else {
    const uint32_t field = t.encoding == Encoding::raw ? 9 : typed_field(t.data_type);
    if (t.encoding == Encoding::string || (t.encoding != Encoding::none && t.field != field))
      throw ScanError(label(t) + ": its data is in the wrong field for its type");
    if (n * item == bytes) return;
  }
  throw ScanError(label(t) + ": its dims ask for " + std::to_string(n) + " elements (" + std::to_string(n * item) +
                  " bytes), but it has " + std::to_string(bytes) + " bytes of data");
}

// -- reading --------------------------------------------------------------------------------------------------
void read_payload(const Source& source, const Tensor& t, void* dst) {
  const uint64_t n = element_count(t.dims, raw_item_bytes(t.data_type), label(t));
  source.check_unchanged();
  if (t.encoding == Encoding::varint) {
    VarintSink sink(t, n, dst);
    std::vector<unsigned char> buf;
    for (const Segment& s : t.segments) {
      if (!s.in_file) {
        sink.feed(reinterpret_cast<const unsigned char*>(t.small.data()) + s.offset, s.length);
        continue;
      }
      buf.resize(65536);
      for (uint64_t at = 0; at < s.length;) {
        const uint64_t part = std::min<uint64_t>(buf.size(), s.length - at);
        source.read(s.offset + at, part, buf.data());
        sink.feed(buf.data(), part);
        at += part;
      }
    }
    sink.finish();
  } else {
    auto* to = static_cast<unsigned char*>(dst);
    for (const Segment& s : t.segments) {
      if (s.in_file)
        source.read(s.offset, s.length, to);
      else
        std::memcpy(to, t.small.data() + s.offset, s.length);
      to += s.length;
    }
    finish_raw(t.data_type, n, dst);
  }
  source.check_unchanged();
}

void read_floats(const Source& source, const Tensor& t, uint64_t first, uint64_t count, float* dst) {
  source.check_unchanged();
  auto* to = reinterpret_cast<unsigned char*>(dst);
  uint64_t from = first * 4, left = count * 4;
  for (const Segment& s : t.segments) {
    if (from < s.length && left > 0) {
      const uint64_t n = std::min(left, s.length - from);
      if (s.in_file)
        source.read(s.offset + from, n, to);
      else
        std::memcpy(to, t.small.data() + s.offset + from, n);
      to += n;
      left -= n;
    }
    from -= std::min(from, s.length);
  }
  if (left > 0) throw ScanError(label(t) + ": a read past its end");
  finish_raw(t.data_type, count, dst);
  source.check_unchanged();
}

void read_raw(const Source& source, uint64_t offset, int32_t data_type, uint64_t count, void* dst) {
  source.check_unchanged();
  source.read(offset, count * raw_item_bytes(data_type), dst);
  finish_raw(data_type, count, dst);
  source.check_unchanged();
}

}  // namespace fastconv::onnx
