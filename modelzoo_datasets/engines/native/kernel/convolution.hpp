// A valid convolution of one image with 2x2 max-pooling fused to it, forward and backward.
//
// The channels of a pixel lie side by side and are the lanes of vectors: inputs [H][W][C], outputs [HO][WO][O]. So the
// winner of a pooling window is an address, one per channel. In the backward pass only winners have a gradient, which
// makes it a quarter of the work of a plain convolution, without masks or shuffles. Every sum stays in its own lane.
//
//   forward   lanes = output channels; a block of 2 rows x COLS columns of results stays in registers
//   backward  lanes = one row of a patch, KW pixels x C channels, which lie side by side in the input
//
// A linear layer is a convolution over its whole input, with one output position.
#pragma once
#include "vectors.hpp"

namespace zoo {

template <int C_, int PITCH_, int H_, int W_, int O_, int KH_, int KW_, bool POOL_, bool BIAS_, bool LINEAR_>
struct Convolution {
  static constexpr int C = C_, PITCH = PITCH_, H = H_, W = W_, O = O_, KH = KH_, KW = KW_;
  static constexpr bool POOL = POOL_, BIAS = BIAS_, LINEAR = LINEAR_;
  static constexpr int LANES = lanes_for(O), OP = round_up(O, LANES);  // output channels, with idle ones
  static constexpr int HC = H - KH + 1, WC = W - KW + 1;               // size after the convolution
  static constexpr int HO = POOL ? HC / 2 : HC, WO = POOL ? WC / 2 : WC;
  static constexpr int PLACES = HO * WO, INPUTS = H * W * PITCH, OUTPUTS = PLACES * OP;

  // Weights in the order of the backward pass, [O][KH][ROW] and O biases: rows of a patch, padded with zeros to whole
  // vectors. The optimizer uses this order too.
  static constexpr int ROW_USED = KW * PITCH, ROW_LANES = PITCH % 16 == 0 ? WIDEST : 8;
  static constexpr int ROW = round_up(ROW_USED, 8), PATCH = KH * ROW;
  static constexpr int PARAMETERS = O * PATCH + OP;
  static constexpr int TABLE =
      KH * KW * C * OP + OP;  // weights in the order of the forward pass, [KH][KW][C][OP], and biases

  using V = Floats<LANES>;
  using R = Floats<ROW_LANES>;

  // Rows of patches of one-channel images begin at any address, and vectors across two cache lines take twice as long
  // to load. So the backward pass reads such images from two copies, the second one shifted by half a line: every patch
  // row is within one line in one of them.
  static constexpr bool COPIED = PITCH == 1 && KW <= 8;
  static constexpr int STRIDE = COPIED ? round_up(W, 16) : W * PITCH, COPIES = COPIED ? 2 * H * STRIDE : 0;

  // The offset of a patch in the input of the backward pass.
  ZOO_INLINE constexpr int patch_at(int row, int col) {
    if (!COPIED) return (row * W + col) * PITCH;
    return row * STRIDE + (col % 16 <= 8 ? col : H * STRIDE + col - 8);
  }

  // The input in the form that the backward pass reads.
  static const float* for_backward(const float* x, float* copies) {
    if constexpr (!COPIED) return x;
    for (int row = 0; row < H; row++) {
      std::memcpy(copies + row * STRIDE, x + row * W, sizeof(float) * W);
      if constexpr (W > 8) std::memcpy(copies + (H + row) * STRIDE, x + row * W + 8, sizeof(float) * (W - 8));
    }
    return copies;
  }

  static constexpr int weight_at(int o, int c, int kh, int kw) { return o * PATCH + kh * ROW + kw * PITCH + c; }
  static constexpr int bias_at(int o) { return O * PATCH + o; }

  // From torch's order, weights [O][C][KH][KW] and biases [O], and back.
  template <class F> static void each_weight(const F& f) {
    for (int o = 0, i = 0; o < O; o++)
      for (int c = 0; c < C; c++)
        for (int kh = 0; kh < KH; kh++)
          for (int kw = 0; kw < KW; kw++) f(i++, weight_at(o, c, kh, kw));
  }

  static void fill_table(const float* parameters, float* table) {
    for (int o = 0; o < O; o++)
      for (int kh = 0; kh < KH; kh++)
        for (int kw = 0; kw < KW; kw++)
          for (int c = 0; c < C; c++) table[((kh * KW + kw) * C + c) * OP + o] = parameters[weight_at(o, c, kh, kw)];
    for (int o = 0; o < OP; o++) table[KH * KW * C * OP + o] = parameters[bias_at(o)];
  }

  // The number of columns at once that leaves registers for two rows of weights and an input; even if it pools.
  static constexpr int ROWS = POOL ? 2 : 1;
  static constexpr int columns_per_block() {
    const int all = POOL ? 2 * WO : WO;
    const int limit = (REGISTERS - 2 - (REGISTERS == 32 ? ROWS * KW : 2)) / ROWS;
    int best = 1;
    for (int n = ROWS; n <= all && n <= limit; n += ROWS)
      if (all % n == 0 || best == 1) best = n;
    return best < ROWS ? ROWS : best;
  }

  // Add input row r of a window, which meets kernel row r of the first output row and row r - 1 of the second one.
  template <int COLS, bool FIRST, bool SECOND>
  ZOO_INLINE void add_row(const float* __restrict x, const float* __restrict w, V (&sums)[ROWS][COLS]) {
    for (int c = 0; c < C; c++) {
      V upper[KW], lower[KW];
      ZOO_UNROLL_FOR (int kw = 0; kw < KW; kw++) {
        if (FIRST) upper[kw] = load<V>(w + (kw * C + c) * OP);
        if (SECOND) lower[kw] = load<V>(w + ((kw - KW) * C + c) * OP);
      }
      ZOO_UNROLL_FOR (int col = 0; col < COLS + KW - 1; col++) {
        const V pixel = splat<V>(x[col * PITCH + c]);
        ZOO_UNROLL_FOR (int kw = 0; kw < KW; kw++) {
          const int n = col - kw;
          if (n < 0 || n >= COLS) continue;
          if (FIRST) sums[0][n] += pixel * upper[kw];
          if (SECOND) sums[ROWS - 1][n] += pixel * lower[kw];
        }
      }
    }
  }

  // COLS columns (of ROWS rows) of the convolution, for one vector of output channels.
  template <int COLS> ZOO_INLINE void block(const float* x, const float* table, V bias, V (&sums)[ROWS][COLS]) {
    ZOO_UNROLL_FOR (int row = 0; row < ROWS; row++) {
      ZOO_UNROLL_FOR (int n = 0; n < COLS; n++) sums[row][n] = bias;
    }
    constexpr int STEP = KW * C * OP;
    if (COLS * ROWS == 1) {  // one result: a dot product
      for (int pixel = 0; pixel < KH * KW; pixel++)
        for (int c = 0; c < C; c++)
          sums[0][0] += splat<V>(x[(pixel / KW * W + pixel % KW) * PITCH + c]) * load<V>(table + (pixel * C + c) * OP);
      return;
    }
    add_row<COLS, true, false>(x, table, sums);
    if (ROWS == 1) {
      for (int r = 1; r < KH; r++) add_row<COLS, true, false>(x + r * W * PITCH, table + r * STEP, sums);
      return;
    }
    for (int r = 1; r < KH; r++) add_row<COLS, true, true>(x + r * W * PITCH, table + r * STEP, sums);
    add_row<COLS, false, true>(x + KH * W * PITCH, table + KH * STEP, sums);
  }

  // The maximum of each window and the offset of its patch in the input; the first one if several are equal. `extra`
  // are further numbers of each result, if any; those of the winner are written to `winner_extra`.
  template <int COLS>
  ZOO_INLINE void pool(const V (&sums)[ROWS][COLS], int row, int col, float* y, int32_t* winner, const V (*extra)[COLS],
                       float* winner_extra) {
    using I = Ints<LANES>;
    ZOO_UNROLL_FOR (int n = 0; n < COLS; n += 2) {
      const auto right_above = sums[0][n + 1] > sums[0][n], right_below = sums[1][n + 1] > sums[1][n];
      const V above = right_above ? sums[0][n + 1] : sums[0][n], below = right_below ? sums[1][n + 1] : sums[1][n];
      const auto low = below > above;
      const I left = splat_int<I>(patch_at(row, col + n)), right = splat_int<I>(patch_at(row, col + n + 1));
      store(y + n / 2 * OP, low ? below : above);
      store(winner + n / 2 * OP, low ? (right_below ? right : left) + STRIDE : (right_above ? right : left));
      if (extra == nullptr) continue;
      const V a = right_above ? extra[0][n + 1] : extra[0][n], b = right_below ? extra[1][n + 1] : extra[1][n];
      store(winner_extra + n / 2 * OP, low ? b : a);
    }
  }

  // Inputs and outputs of a stage.
  struct Pass {
    const float *x, *table;
    float* y;
    int32_t* winner;
  };
  // The noise of every result (local reparameterization, 1701.05369): its variance is the convolution of the squared
  // inputs with the variances of the weights. `slope` gets the derivative of a result by that variance.
  struct Noise {
    const float *squares, *table, *draws;  // draws [HC][WC][OP]
    float* slope;
  };

  template <int COLS, bool NOISY>
  ZOO_INLINE void columns(const Pass& pass, const Noise& noise, int row, int col, int o) {
    constexpr int BIASES = KH * KW * C * OP;
    V sums[ROWS][COLS];
    const int origin = (row * ROWS * W + col) * PITCH, place = (row * WO + col / ROWS) * OP + o;
    block<COLS>(pass.x + origin, pass.table + o, load<V>(pass.table + BIASES + o), sums);
    V slopes[ROWS][COLS];
    if constexpr (NOISY) {
      V variances[ROWS][COLS];
      block<COLS>(noise.squares + origin, noise.table + o, load<V>(noise.table + BIASES + o), variances);
      for (int r = 0; r < ROWS; r++)
        for (int n = 0; n < COLS; n++) {
          const V draw = load<V>(noise.draws + ((row * ROWS + r) * WC + col + n) * OP + o);
          const V deviation = vec_sqrt(variances[r][n] + 1e-15f);
          slopes[r][n] = draw / (2.f * deviation);
          sums[r][n] += draw * deviation;
        }
    }
    if constexpr (POOL) {
      pool<COLS>(sums, row * ROWS, col, pass.y + place, pass.winner + place, NOISY ? slopes : nullptr,
                 noise.slope + place);
    } else {
      ZOO_UNROLL_FOR (int n = 0; n < COLS; n++) store(pass.y + place + n * OP, sums[0][n]);
      if constexpr (NOISY)
        ZOO_UNROLL_FOR (int n = 0; n < COLS; n++) store(noise.slope + place + n * OP, slopes[0][n]);
    }
  }

  template <bool NOISY> static void forward(const Pass& pass, const Noise& noise) {
    constexpr int COLS = columns_per_block(), ALL = WO * ROWS, REST = ALL % COLS;
    for (int o = 0; o < OP; o += LANES)
      for (int row = 0; row < HO; row++) {
        for (int col = 0; col + COLS <= ALL; col += COLS) columns<COLS, NOISY>(pass, noise, row, col, o);
        if constexpr (REST > 0) columns<REST, NOISY>(pass, noise, row, ALL - REST, o);
      }
  }

  // The offset of the patch that gets the gradient of a result.
  ZOO_INLINE int winning_patch(const int32_t* winner, int place, int o) {
    return POOL ? winner[place * OP + o] : patch_at(place / WO, place % WO);
  }

  // The sums of UNITS weight rows stay in registers for all places; kernel rows go in passes if they are too many.
  static constexpr int CHUNKS = ROW / ROW_LANES;
  static constexpr int PASS =
      KH * CHUNKS <= REGISTERS - 6 ? KH : (CHUNKS >= REGISTERS - 6 ? 1 : (REGISTERS - 6) / CHUNKS);
  static constexpr int units_per_block() {
    int best = 1;
    for (int n = 2; n <= 4; n++)
      if (O % n == 0 && n * PASS * CHUNKS <= REGISTERS - 8) best = n;
    return best;
  }

  template <int UNITS, int ROWS_HERE>
  ZOO_INLINE void add_weight_gradient(const float* __restrict x, const float* __restrict g,
                                      const int32_t* __restrict winner, float* __restrict gradient, int o, int kh) {
    R sums[UNITS][ROWS_HERE][CHUNKS];
    ZOO_UNROLL_FOR (int u = 0; u < UNITS; u++)
      ZOO_UNROLL_FOR (int r = 0; r < ROWS_HERE; r++)
        ZOO_UNROLL_FOR (int i = 0; i < CHUNKS; i++)
          sums[u][r][i] = load<R>(gradient + (o + u) * PATCH + (kh + r) * ROW + i * ROW_LANES);
    for (int place = 0; place < PLACES; place++) {
      ZOO_UNROLL_FOR (int u = 0; u < UNITS; u++) {
        const R factor = splat<R>(g[place * OP + o + u]);
        const float* patch = x + winning_patch(winner, place, o + u) + kh * STRIDE;
        ZOO_UNROLL_FOR (int r = 0; r < ROWS_HERE; r++)
          ZOO_UNROLL_FOR (int i = 0; i < CHUNKS; i++)
            sums[u][r][i] += factor * load<R>(patch + r * STRIDE + i * ROW_LANES);
      }
    }
    ZOO_UNROLL_FOR (int u = 0; u < UNITS; u++)
      ZOO_UNROLL_FOR (int r = 0; r < ROWS_HERE; r++)
        ZOO_UNROLL_FOR (int i = 0; i < CHUNKS; i++)
          store(gradient + (o + u) * PATCH + (kh + r) * ROW + i * ROW_LANES, sums[u][r][i]);
  }

  // Add the gradient of the parameters for one image: x is the input from `for_backward`, g the gradient of the results
  // [HO][WO][OP].
  static void parameter_gradient(const float* x, const float* g, const int32_t* winner, float* gradient) {
    constexpr int UNITS = units_per_block(), REST = KH % PASS;
    for (int o = 0; o < O; o += UNITS) {
      for (int kh = 0; kh + PASS <= KH; kh += PASS) add_weight_gradient<UNITS, PASS>(x, g, winner, gradient, o, kh);
      if constexpr (REST > 0) add_weight_gradient<UNITS, REST>(x, g, winner, gradient, o, KH - REST);
    }
    if constexpr (BIAS)
      for (int o = 0; o < OP; o += LANES) {
        V sum = load<V>(gradient + O * PATCH + o);
        for (int place = 0; place < PLACES; place++) sum += load<V>(g + place * OP + o);
        store(gradient + O * PATCH + o, sum);
      }
  }

  // Backward to the input: a result affects a window of REACH x SPAN pixels, the patches of all cells that can win.
  // `spread` holds the weights with a margin of zeros, [O][KH + 2][KW + 2][PITCH], so that the coefficients of a window
  // are one block of it, wherever the winner is. Without pooling the weights themselves are used.
  static constexpr int REACH = KH + POOL, SPAN = KW + POOL, SPREAD_ROW = POOL ? (KW + 2) * PITCH : ROW;
  static constexpr int SPREAD = POOL ? O * (KH + 2) * SPREAD_ROW + 16 : 0;
  static constexpr int SPAN_USED = POOL ? PITCH : SPAN * PITCH;  // a multiple of the lanes: no vector leaves its row
  static constexpr int SPAN_LANES = SPAN_USED % WIDEST == 0 ? WIDEST : SPAN_USED % 8 == 0 ? 8 : 4;
  static constexpr int SPAN_CHUNKS = SPAN * PITCH / SPAN_LANES;
  static constexpr int rows_per_block() {
    int rows = (REGISTERS - 4) / SPAN_CHUNKS;
    rows = rows < 1 ? 1 : rows > REACH ? REACH : rows;
    const int passes = (REACH + rows - 1) / rows;
    return (REACH + passes - 1) / passes;
  }
  static constexpr int UNITS_IN_CACHE = 4096 / (SPREAD_ROW * (KH + 2)) > 1 ? 4096 / (SPREAD_ROW * (KH + 2)) : 1;

  static void fill_spread(const float* parameters, float* spread) {
    if constexpr (POOL)
      for (int o = 0; o < O; o++)
        for (int kh = 0; kh < KH; kh++)
          std::memcpy(spread + (o * (KH + 2) + kh + 1) * SPREAD_ROW + PITCH, parameters + o * PATCH + kh * ROW,
                      sizeof(float) * ROW_USED);
  }

  // The coefficients of the first pixel of the window of a place.
  ZOO_INLINE const float* coefficients(const float* weights, const int32_t* winner, int place, int o) {
    if (!POOL) return weights + o * PATCH;
    const int moved = winner[place * OP + o] - (place / WO * 2 * W + place % WO * 2) * PITCH;
    const int shift = moved >= W * PITCH ? moved - (W - KW - 2) * PITCH : moved;
    return weights + o * (KH + 2) * SPREAD_ROW + SPREAD_ROW + PITCH - shift;
  }

  template <int ROWS_HERE>
  ZOO_INLINE void add_window(const float* __restrict weights, const float* __restrict g,
                             const int32_t* __restrict winner, float* __restrict dx, int place, int row, int first,
                             int last) {
    using S = Floats<SPAN_LANES>;
    S sums[ROWS_HERE][SPAN_CHUNKS];
    ZOO_UNROLL_FOR (int r = 0; r < ROWS_HERE; r++)
      ZOO_UNROLL_FOR (int i = 0; i < SPAN_CHUNKS; i++) sums[r][i] = load<S>(dx + r * W * PITCH + i * SPAN_LANES);
    for (int o = first; o < last; o++) {
      const S factor = splat<S>(g[place * OP + o]);
      const float* from = coefficients(weights, winner, place, o) + row * SPREAD_ROW;
      ZOO_UNROLL_FOR (int r = 0; r < ROWS_HERE; r++)
        ZOO_UNROLL_FOR (int i = 0; i < SPAN_CHUNKS; i++)
          sums[r][i] += factor * load<S>(from + r * SPREAD_ROW + i * SPAN_LANES);
    }
    ZOO_UNROLL_FOR (int r = 0; r < ROWS_HERE; r++)
      ZOO_UNROLL_FOR (int i = 0; i < SPAN_CHUNKS; i++) store(dx + r * W * PITCH + i * SPAN_LANES, sums[r][i]);
  }

  // The gradient of the input [H][W][PITCH]; `weights` are the spread weights if it pools, else the parameters.
  static void input_gradient(const float* weights, const float* g, const int32_t* winner, float* dx) {
    constexpr int ROWS_PER_BLOCK = rows_per_block(), REST = REACH % ROWS_PER_BLOCK;
    std::memset(dx, 0, sizeof(float) * INPUTS);
    for (int first = 0; first < O; first += UNITS_IN_CACHE) {
      const int last = first + UNITS_IN_CACHE < O ? first + UNITS_IN_CACHE : O;
      for (int place = 0; place < PLACES; place++) {
        float* window = dx + (place / WO * ROWS * W + place % WO * ROWS) * PITCH;
        for (int row = 0; row + ROWS_PER_BLOCK <= REACH; row += ROWS_PER_BLOCK)
          add_window<ROWS_PER_BLOCK>(weights, g, winner, window + row * W * PITCH, place, row, first, last);
        if constexpr (REST > 0)
          add_window<REST>(weights, g, winner, window + (REACH - REST) * W * PITCH, place, REACH - REST, first, last);
      }
    }
  }

  // Idle places of rows have read beyond their patch; their sums do not belong to the model.
  static void clear_idle(float* gradient) {
    if constexpr (ROW_USED < ROW || C < PITCH)
      for (int o = 0; o < O; o++)
        for (int kh = 0; kh < KH; kh++)
          for (int i = 0; i < ROW; i++)
            if (i >= ROW_USED || i % PITCH >= C) gradient[o * PATCH + kh * ROW + i] = 0.f;
    for (int o = O; o < OP; o++) gradient[bias_at(o)] = 0.f;
  }
};

}  // namespace zoo
