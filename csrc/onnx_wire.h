// The protobuf wire format, read through one small window of a Source: every length is checked against the message that
// encloses it. A message is a list of (tag, value), tag = field << 3 | wire type; wire type 0 is a varint (7 bits a
// byte, low first), 1 eight bytes, 2 a varint length and that many bytes, 5 four bytes. Groups (3, 4) are refused.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "onnx_scan.h"

namespace fastconv::onnx {

inline constexpr uint64_t kWindow = 16384;  // small: each skipped payload costs one refill

enum Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

inline bool is_utf8(const std::string& s) {
  const auto* p = reinterpret_cast<const unsigned char*>(s.data());
  const auto* end = p + s.size();
  while (p < end) {
    const unsigned c = *p++;
    if (c < 0x80) continue;
    const int more = c >= 0xC2 && c <= 0xDF ? 1 : (c & 0xF0) == 0xE0 ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
    if (more == 0 || end - p < more) return false;
    if ((c == 0xE0 && *p < 0xA0) || (c == 0xED && *p > 0x9F) || (c == 0xF0 && *p < 0x90) || (c == 0xF4 && *p > 0x8F))
      return false;
    for (int i = 0; i < more; ++i)
      if ((*p++ & 0xC0) != 0x80) return false;
  }
  return true;
}

class WireReader {
 public:
  explicit WireReader(const Source& source) : src_(source), buf_(kWindow) {}

 protected:
  struct Tag {
    uint32_t field, wire;
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw ScanError("model file, byte " + std::to_string(pos_) + ": " + what);
  }

  void charge(uint64_t items = 1) {
    items_ += items;
    if (items_ > kMaxItems) fail("more than " + std::to_string(kMaxItems) + " nodes, names and list elements");
  }

  // -- primitives -------------------------------------------------------------------------------------------
  unsigned byte() {  // the caller has checked pos_ < end <= size
    if (pos_ < base_ || pos_ >= base_ + have_) {
      const uint64_t n = std::min<uint64_t>(kWindow, src_.size() - pos_);
      src_.read(pos_, n, buf_.data());
      base_ = pos_;
      have_ = n;
    }
    return buf_[pos_++ - base_];
  }

  void copy(uint64_t n, void* dst) {
    if (pos_ >= base_ && pos_ + n <= base_ + have_)
      std::memcpy(dst, buf_.data() + (pos_ - base_), n);
    else
      src_.read(pos_, n, dst);
    pos_ += n;
  }

  uint64_t varint(uint64_t end, const char* what) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (pos_ >= end) fail(std::string("varint of ") + what + " runs past the end of its message");
      const unsigned b = byte();
      if (shift == 63 && b > 1) break;
      v |= static_cast<uint64_t>(b & 0x7F) << shift;
      if (b < 0x80) return v;
    }
    fail(std::string("varint of ") + what + " does not fit into 64 bits");
  }

  Tag tag(uint64_t end, const char* what) {
    const uint64_t v = varint(end, what);
    const uint32_t wire = v & 7;
    if (v >> 32 || v >> 3 == 0) fail(std::string("bad field number in ") + what);
    if (wire != kVarint && wire != kFixed64 && wire != kBytes && wire != kFixed32)
      fail(std::string("bad wire type ") + std::to_string(wire) + " in " + what);
    return {static_cast<uint32_t>(v >> 3), wire};
  }

  void expect(Tag t, uint32_t wire, const char* what) const {
    if (t.wire != wire)
      fail(std::string(what) + " has wire type " + std::to_string(t.wire) + ", expected " + std::to_string(wire));
  }

  uint64_t length(uint64_t end, const char* what) {
    const uint64_t n = varint(end, what);
    if (n > end - pos_)
      fail(std::string(what) + " claims " + std::to_string(n) + " bytes, but only " + std::to_string(end - pos_) +
           " are left");
    return n;
  }

  uint64_t sub(Tag t, uint64_t end, const char* what) {
    expect(t, kBytes, what);
    charge();
    const uint64_t n = length(end, what);
    return pos_ + n;
  }

  void skip(Tag t, uint64_t end) {
    if (t.wire == kVarint) {
      varint(end, "an unknown field");
      return;
    }
    const uint64_t n = t.wire == kBytes ? length(end, "a skipped field") : t.wire == kFixed64 ? 8 : 4;
    if (n > end - pos_) fail("a skipped field runs past the end of its message");
    pos_ += n;
  }

  int64_t integer(Tag t, uint64_t end, const char* what) {
    expect(t, kVarint, what);
    return static_cast<int64_t>(varint(end, what));
  }

  int32_t small_integer(Tag t, uint64_t end, const char* what) {
    const int64_t v = integer(t, end, what);
    if (v < INT32_MIN || v > INT32_MAX) fail(std::string(what) + " does not fit into 32 bits");
    return static_cast<int32_t>(v);
  }

  float real(uint64_t end, const char* what) {
    if (end - pos_ < 4) fail(std::string(what) + " runs past the end of its message");
    float f;
    copy(4, &f);
    return f;
  }

  std::string bytes(Tag t, uint64_t end, const char* what) {
    expect(t, kBytes, what);
    charge();
    const uint64_t n = length(end, what);
    if (n > kMaxNameBytes) fail(std::string(what) + " is longer than " + std::to_string(kMaxNameBytes) + " bytes");
    std::string s(n, '\0');
    if (n) copy(n, s.data());
    return s;
  }

  std::string text(Tag t, uint64_t end, const char* what) {
    std::string s = bytes(t, end, what);
    if (!is_utf8(s)) fail(std::string(what) + " is not valid UTF-8");
    return s;
  }

  // A repeated int64: one element, or a packed run.
  void integers(Tag t, uint64_t end, std::vector<int64_t>& out, const char* what) {
    const uint64_t stop = t.wire == kBytes ? sub(t, end, what) : end;
    if (t.wire != kBytes) expect(t, kVarint, what);
    do {
      if (t.wire == kBytes && pos_ == stop) return;
      charge();
      out.push_back(static_cast<int64_t>(varint(stop, what)));
    } while (t.wire == kBytes);
  }

  void reals(Tag t, uint64_t end, std::vector<float>& out, const char* what) {
    const uint64_t stop = t.wire == kBytes ? sub(t, end, what) : end;
    if (t.wire != kBytes) expect(t, kFixed32, what);
    do {
      if (t.wire == kBytes && pos_ == stop) return;
      charge();
      out.push_back(real(stop, what));
    } while (t.wire == kBytes);
  }

  const Source& src_;
  uint64_t pos_ = 0;

 private:
  std::vector<unsigned char> buf_;
  uint64_t base_ = 0, have_ = 0, items_ = 0;
};

}  // namespace fastconv::onnx
