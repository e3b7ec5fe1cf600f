// Non-maximum suppression (ONNX NonMaxSuppression): for each image and class the boxes by falling score, each kept
// unless it overlaps a kept one by more than the threshold. One chunk: rows are written one behind the other, and how
// many there are is known only at the end; the rest of the output is -1.
#include "cpu/math.h"

namespace fastconv {
namespace FASTCONV_ISA {
namespace {

struct Corners {
  float y0, x0, y1, x1;
};

Corners corners(const float* b, bool center) {
  if (center) return {b[1] - b[3] / 2, b[0] - b[2] / 2, b[1] + b[3] / 2, b[0] + b[2] / 2};
  const bool down = b[0] <= b[2], right = b[1] <= b[3];
  return {down ? b[0] : b[2], right ? b[1] : b[3], down ? b[2] : b[0], right ? b[3] : b[1]};
}

bool overlaps(const Corners& a, const Corners& b, float iou) {
  const float y0 = a.y0 > b.y0 ? a.y0 : b.y0, x0 = a.x0 > b.x0 ? a.x0 : b.x0;
  const float y1 = a.y1 < b.y1 ? a.y1 : b.y1, x1 = a.x1 < b.x1 ? a.x1 : b.x1;
  if (!(y1 > y0 && x1 > x0)) return false;
  const float area_a = (a.y1 - a.y0) * (a.x1 - a.x0), area_b = (b.y1 - b.y0) * (b.x1 - b.x0);
  const float both = (y1 - y0) * (x1 - x0);
  return area_a > 0 && area_b > 0 && both > iou * (area_a + area_b - both);
}

}  // namespace

void suppress(const Suppress& d, const Buffers& b, int64_t begin, int64_t end) {
  if (begin >= end) return;
  float* y = b.out;
  for (int64_t image = 0; image < d.images; image++)
    for (int64_t c = 0; c < d.classes; c++) {
      const float* boxes = b.in[0] + image * d.boxes * 4;
      const float* score = b.in[1] + (image * d.classes + c) * d.boxes;
      const float* order = b.in[2] + (image * d.classes + c) * d.boxes;
      const float* kept = y + 2;  // the box of each row of this class
      for (int64_t i = 0, chosen = 0; i < d.boxes && chosen < d.most; i++) {
        const int64_t at = order[i] >= (float)d.boxes ? d.boxes - 1 : order[i] > 0 ? (int64_t)order[i] : 0;
        if (score[at] != score[at]) continue;
        if (d.has_score && !(score[at] > d.score)) break;
        const Corners candidate = corners(boxes + at * 4, d.center != 0);
        bool free = true;
        for (int64_t k = 0; k < chosen && free; k++)
          free = !overlaps(candidate, corners(boxes + (int64_t)kept[3 * k] * 4, d.center != 0), d.iou);
        if (!free) continue;
        chosen++;
        y[0] = (float)image;
        y[1] = (float)c;
        y[2] = (float)at;
        y += 3;
      }
    }
  const float* stop = b.out + d.images * d.classes * min_i(d.most, d.boxes) * 3;
  while (y < stop) *y++ = -1.0f;
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
