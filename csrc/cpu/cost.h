// What a layer costs on one thread: countable work (terms) times what each piece takes (coefficients of an ISA).
#pragma once
#include "cpu/select.h"

namespace fastconv {

enum CostTerm : int32_t {
  COST_OPERATION,  // operations of the plan
  COST_FMA,        // slots of FMA ports: vectors in a tile, never fewer than latency takes
  COST_STORE,      // vectors that tiles start from, finish and write
  COST_POINTER,    // pointers to pixels that implicit products gather
  COST_WEIGHT,     // bytes of packed weights, from memory
  COST_REREAD,     // bytes of weights that do not stay in L2 between blocks of tiles
  COST_IMAGE,      // bytes of input and output
  COST_FAR,        // those of them beyond L2
  COST_PANEL,      // bytes of input, once for each panel of weights but the first
  COST_TILE_IN,    // vectors of transformed input
  COST_TILE_OUT,   // vectors of sums that are transformed back
  COST_WIDE,       // both of edges of eight, which do not fit the registers
  COST_TAP,        // vectors of depthwise products
  COST_PIXEL,      // vectors of depthwise outputs
  COST_BORDER,     // bytes of a padded copy of the image
  COST_STREAM,     // bytes of dense weights that are read once
  COST_TERMS
};

struct Cost {
  double terms[COST_TERMS];
};

// The shape must be countable, and the plan one of its candidates.
Cost conv2d_cost(const ConvShape& shape, ConvPlan plan, Isa isa);
Cost linear_cost(int64_t M, int64_t C, int64_t K, Isa isa);  // up to LINEAR_ROWS rows
const char* cost_term_name(int term);

// One thread, cold weights, on the CPU that bench/fit_cost.py measured (cpu/cost_table.h): a scale on others.
double cost_seconds(const Cost& cost, Isa isa);
// Any other operation: what it reads and writes.
double moved_seconds(double bytes, Isa isa);
// Seconds that the choice adds for bytes of packed weights: they are transformed when a model is loaded, and threads
// share the memory that they come from.
double weight_price(double bytes);

}  // namespace fastconv
